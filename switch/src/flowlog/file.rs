//! The file of the flow log: whole lines only, put aside by renaming when it is full or old.
//!
//! FILE becomes FILE.1, FILE.1 becomes FILE.2 and so on; the oldest is removed. What another program has taken away is
//! made anew. Standard output is only written to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::settings::FlowLogSettings;

/// Where records go.
pub(crate) struct LogFile {
    header: String,
    sink: Sink,
}

enum Sink {
    Output { begun: bool },
    File(Rotated),
}

struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    max_age: Option<Duration>,
    keep: u16,
    open: Option<Open>,
}

struct Open {
    file: File,
    inode: u64,
    bytes: u64,
    /// A pipe or a device is not put aside.
    regular: bool,
    since: Instant,
}

impl LogFile {
    /// The file of this name, or standard output. It is opened when it is written.
    pub(crate) fn new(path: &Path, settings: &FlowLogSettings) -> Self {
        let header = settings.format.header().unwrap_or_default();
        if path.as_os_str() == "-" {
            return Self { header, sink: Sink::Output { begun: false } };
        }
        let file = Rotated {
            path: path.to_owned(),
            max_bytes: settings.max_bytes(),
            max_age: (settings.max_age > 0).then(|| Duration::from_secs(settings.max_age.into())),
            keep: settings.keep,
            open: None,
        };
        Self { header, sink: Sink::File(file) }
    }

    /// Opens it, to know whether it can be written.
    pub(crate) fn try_open(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Output { .. } => Ok(()),
            Sink::File(file) => file.opened().map(|_| ()),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        match &self.sink {
            Sink::Output { .. } => "on standard output".to_owned(),
            Sink::File(file) => file.path.display().to_string(),
        }
    }

    /// Writes whole lines, all or none of them.
    pub(crate) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match &mut self.sink {
            Sink::Output { begun } => {
                let mut output = io::stdout().lock();
                if !*begun {
                    output.write_all(self.header.as_bytes())?;
                    *begun = true;
                }
                output.write_all(lines)?;
                output.flush()
            }
            Sink::File(file) => file.write(&self.header, lines),
        }
    }

    /// Puts a file aside that is too old.
    pub(crate) fn look_at_age(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Output { .. } => Ok(()),
            Sink::File(file) => file.rotate_if_old(),
        }
    }
}

impl Rotated {
    fn write(&mut self, header: &str, lines: &[u8]) -> io::Result<()> {
        self.rotate_if_old()?;
        let full = self.max_bytes;
        let length = lines.len() as u64;
        let open = self.opened()?;
        if open.regular && full > 0 && open.bytes > 0 && open.bytes + length > full {
            self.rotate()?;
        }
        let open = self.opened()?;
        let before = open.bytes;
        let head = if before == 0 { header.as_bytes() } else { &[] };
        let done = open.file.write_all(head).and_then(|()| open.file.write_all(lines));
        match done {
            Ok(()) => {
                open.bytes += head.len() as u64 + length;
                Ok(())
            }
            Err(error) => {
                // A part of a line would spoil the next; a device has no length to cut.
                let _cut = open.file.set_len(before);
                self.open = None;
                Err(error)
            }
        }
    }

    /// The file, opened anew if it was closed or is not there under its name any more.
    fn opened(&mut self) -> io::Result<&mut Open> {
        let there = fs::metadata(&self.path).ok().map(|found| found.ino());
        let open = match self.open.take() {
            Some(open) if Some(open.inode) == there => open,
            _ => {
                let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
                let found = file.metadata()?;
                let (inode, bytes, regular) = (found.ino(), found.len(), found.is_file());
                Open { inode, bytes, regular, since: Instant::now(), file }
            }
        };
        Ok(self.open.insert(open))
    }

    fn rotate_if_old(&mut self) -> io::Result<()> {
        let old = match (&self.open, self.max_age) {
            (Some(open), Some(age)) => open.regular && open.bytes > 0 && open.since.elapsed() >= age,
            _ => false,
        };
        if old { self.rotate() } else { Ok(()) }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let aside = |number: u16| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.keep).rev() {
            match fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: FlowLogSettings,
    }

    fn open(path: &Path, flags: &[&str]) -> LogFile {
        let flags = std::iter::once(&"switch").chain(flags);
        LogFile::new(path, &Line::parse_from(flags).settings)
    }

    fn read(path: &Path, number: Option<u16>) -> Option<String> {
        let name = number.map_or(path.display().to_string(), |number| format!("{}.{number}", path.display()));
        fs::read_to_string(name).ok()
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.log");
        let mut file = open(
            &path,
            &["--flow-log-format", "${srcaddr}", "--flow-log-max-size", "1", "--flow-log-keep", "2"],
        );
        let lines = |mark: u8| {
            let mut lines = vec![mark; 600 << 10];
            lines.push(b'\n');
            lines
        };
        for mark in *b"abcd" {
            file.write(&lines(mark)).unwrap();
        }
        for (number, mark) in [(None, 'd'), (Some(1), 'c'), (Some(2), 'b')] {
            let text = read(&path, number).unwrap();
            assert!(text.starts_with(&format!("srcaddr\n{mark}")), "{number:?}");
            assert_eq!(text.len(), "srcaddr\n".len() + lines(b'x').len());
        }
        assert_eq!(read(&path, Some(3)), None);
    }

    #[test]
    fn an_old_file_is_put_aside_and_one_that_was_taken_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.log");
        let mut file = open(&path, &["--flow-log-max-age", "3600"]);
        file.write(b"one\n").unwrap();
        fs::rename(&path, folder.path().join("taken")).unwrap();
        file.write(b"two\n").unwrap();
        assert!(read(&path, None).unwrap().ends_with("log-status\ntwo\n"));
        if let Sink::File(rotated) = &mut file.sink {
            rotated.max_age = Some(Duration::ZERO);
        }
        file.look_at_age().unwrap();
        assert!(read(&path, Some(1)).unwrap().ends_with("two\n"));
        assert_eq!(read(&path, None), None);
    }

    #[test]
    fn a_file_goes_on_where_it_ended_without_a_second_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.log");
        for line in ["1\n", "2\n"] {
            open(&path, &["--flow-log-format", "${srcport}"]).write(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path, None).unwrap(), "srcport\n1\n2\n");
    }

    #[test]
    fn a_full_disk_is_an_error_that_leaves_no_half_line() {
        let mut file = open(Path::new("/dev/full"), &[]);
        let error = file.write(b"line\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
