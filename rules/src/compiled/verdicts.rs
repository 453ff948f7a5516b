//! (policy, direction, class) → book, and (book, protocol) → port set: the second stage of a lookup.
//!
//! A book is what one policy says about one class in one direction, for every protocol. Equal books are one.

use std::sync::Arc;

use espalier_api::protocol;
use rustc_hash::FxHashMap;

use super::classes::{ClassRef, Event};
use super::interner::Interner;
use super::pages::Pages;
use super::ports::{PortSetWriter, PortSets, PortsRef, Verdict};
use crate::tuple::Tuple;

/// Entries of a page: 4 KiB.
const CELLS_PER_PAGE: usize = 1024;
/// Classes whose cells for one policy and direction lie side by side.
const CLASSES_PER_BLOCK: usize = 16;
/// Books of a page: 4 KiB.
const BOOKS_PER_PAGE: usize = 128;

/// Places of a book.
pub(crate) const SLOTS: usize = 5;
/// The place of the protocols that have none of their own; its selector is the protocol number.
pub(crate) const OTHERS: usize = 4;
/// The protocols with a place of their own.
pub(crate) const SLOT_PROTOCOLS: [u8; OTHERS] =
    [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6];

/// Port sets by protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(align(32))]
pub(crate) struct Book(pub(crate) [PortsRef; SLOTS]);

/// A policy in one direction: the row of a cell.
pub(crate) type Row = u32;

/// The second stage's tables.
#[derive(Debug, Clone)]
pub(crate) struct Verdicts {
    cells: Pages<u32, CELLS_PER_PAGE>,
    /// Rows there is room for.
    rows: usize,
    books: Pages<Book, BOOKS_PER_PAGE>,
    ports: Arc<PortSets>,
}

impl Verdicts {
    /// What a policy says about a class: the number of a book. No class, and a policy that is not of this version, are
    /// denied. Whether there is a class is not branched on: it cannot be predicted.
    #[inline]
    pub(crate) fn book_of_ref(&self, row: Row, class: ClassRef) -> u32 {
        if row as usize >= self.rows {
            return DENY_BOOK;
        }
        let present = u32::from(class.is_some()).wrapping_neg();
        self.book_of(row, class.number() & present) & present
    }

    #[inline]
    fn book_of(&self, row: Row, class: u32) -> u32 {
        *self.cells.at(self.cell(row, class))
    }

    /// The port set of a book for a protocol's place.
    #[inline]
    pub(crate) fn ports_of(&self, book: u32, slot: usize) -> PortsRef {
        self.books.at(book).0[slot]
    }

    /// The verdict of a port set.
    #[inline]
    pub(crate) fn verdict(&self, ports: PortsRef, selector: u16) -> Verdict {
        self.ports.find(ports, selector)
    }

    #[inline]
    fn cell(&self, row: Row, class: u32) -> u32 {
        let (block, within) = (class as usize / CLASSES_PER_BLOCK, class as usize % CLASSES_PER_BLOCK);
        ((block * self.rows + row as usize) * CLASSES_PER_BLOCK + within) as u32
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.bytes() + self.books.bytes() + self.ports.bytes()
    }
}

/// The place of a packet's protocol in a book, and its selector there.
#[inline]
pub(crate) fn slot(packet: &Tuple) -> (usize, u16) {
    let slot = usize::from(SLOT_OF[usize::from(packet.protocol)]);
    (slot, if slot == OTHERS { packet.protocol.into() } else { packet.selector })
}

/// The place of every protocol: a table, because the next packet's protocol cannot be predicted.
const SLOT_OF: [u8; 256] = {
    let mut table = [OTHERS as u8; 256];
    let mut slot = 0;
    while slot < OTHERS {
        table[SLOT_PROTOCOLS[slot] as usize] = slot as u8;
        slot += 1;
    }
    table
};

/// The writer's half.
#[derive(Debug)]
pub(crate) struct VerdictWriter {
    verdicts: Arc<Verdicts>,
    books: Interner<Book>,
    ports: PortSetWriter,
    rows_used: usize,
}

/// The book that denies everything. It is never given up; that it is zero saves lookups a branch.
const DENY_BOOK: u32 = 0;

impl VerdictWriter {
    /// Tables with room for `rows` and `classes`, all denied.
    pub(crate) fn new(rows: usize, classes: usize) -> Self {
        let mut books = Interner::default();
        books.acquire(Book::default());
        let rows = rows.next_power_of_two().max(2);
        let cells = rows * classes.next_multiple_of(CLASSES_PER_BLOCK);
        let verdicts = Arc::new(Verdicts {
            cells: Pages::filled(cells, DENY_BOOK),
            rows,
            books: Pages::filled(1, Book::default()),
            ports: Arc::default(),
        });
        Self { verdicts, books, ports: PortSetWriter::default(), rows_used: 0 }
    }

    /// The reader's half as it stands.
    pub(crate) fn verdicts(&self) -> &Arc<Verdicts> {
        &self.verdicts
    }

    /// Makes room for rows below `rows`; all their cells deny.
    pub(crate) fn need_rows(&mut self, rows: usize) {
        self.rows_used = self.rows_used.max(rows);
        if rows <= self.verdicts.rows {
            return;
        }
        let old = self.verdicts.clone();
        let verdicts = Arc::make_mut(&mut self.verdicts);
        verdicts.rows = rows.next_power_of_two();
        let blocks = old.cells.len() / (CLASSES_PER_BLOCK * old.rows);
        verdicts.cells = Pages::filled(blocks * verdicts.rows * CLASSES_PER_BLOCK, DENY_BOOK);
        for class in 0..(blocks * CLASSES_PER_BLOCK) as u32 {
            for row in 0..old.rows as Row {
                let book = *old.cells.at(old.cell(row, class));
                if book != DENY_BOOK {
                    let at = verdicts.cell(row, class);
                    verdicts.cells.set(at, book);
                }
            }
        }
    }

    /// Follows the coming and going of classes; returns those that need books.
    pub(crate) fn follow(&mut self, events: &[Event]) -> Vec<u32> {
        let mut begun = FxHashMap::default();
        for event in events {
            match event {
                Event::Begun(class) => {
                    let verdicts = Arc::make_mut(&mut self.verdicts);
                    let blocks = *class as usize / CLASSES_PER_BLOCK + 1;
                    verdicts.cells.grow(blocks * verdicts.rows * CLASSES_PER_BLOCK, DENY_BOOK);
                    begun.insert(*class, true);
                }
                Event::Ended(class) => {
                    for row in 0..self.rows_used as Row {
                        self.set(row, *class, Book::default());
                    }
                    begun.insert(*class, false);
                }
            }
        }
        let mut needed: Vec<u32> =
            begun.into_iter().filter(|(_, lives)| *lives).map(|(class, _)| class).collect();
        needed.sort_unstable();
        needed
    }

    /// A port set of these runs, to be put in a book given to [`set`](Self::set).
    pub(crate) fn acquire_ports(&mut self, runs: Vec<(u16, Verdict)>) -> PortsRef {
        if let [(_, verdict)] = runs[..] {
            return PortsRef::constant(verdict);
        }
        let verdicts = Arc::make_mut(&mut self.verdicts);
        self.ports.acquire(&mut verdicts.ports, runs)
    }

    /// Makes `book`, whose port sets the caller has acquired, what the policy says about the class.
    pub(crate) fn set(&mut self, row: Row, class: u32, book: Book) {
        let (number, new) = self.books.acquire(book);
        if new {
            let books = &mut Arc::make_mut(&mut self.verdicts).books;
            books.grow(number as usize + 1, book);
            books.set(number, book);
        } else {
            // The book holds its port sets once.
            self.release_ports(book);
        }
        self.replace(row, class, number);
    }

    /// Makes the book of another cell what the policy says about the class.
    pub(crate) fn copy(&mut self, row: Row, class: u32, from: u32) {
        let number = self.verdicts.book_of(row, from);
        self.books.retain(number);
        self.replace(row, class, number);
    }

    fn replace(&mut self, row: Row, class: u32, number: u32) {
        let old = self.verdicts.book_of(row, class);
        if old != number {
            let at = self.verdicts.cell(row, class);
            Arc::make_mut(&mut self.verdicts).cells.set(at, number);
        }
        // Cells begin with the denying book, which therefore is not counted.
        if number == DENY_BOOK {
            self.give_up(number);
        }
        if old != DENY_BOOK {
            self.give_up(old);
        }
    }

    fn give_up(&mut self, number: u32) {
        if let Some(book) = self.books.release(number) {
            self.release_ports(*book);
        }
    }

    fn release_ports(&mut self, book: Book) {
        for ports in book.0 {
            if ports.has_place() {
                self.ports.release(&mut Arc::make_mut(&mut self.verdicts).ports, ports);
            }
        }
    }
}
