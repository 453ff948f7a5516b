//! In which order packets of several pods go into a queue that has no room for all: in turns, so that a pod that sends
//! much cannot crowd out one that sends little.
//!
//! Deficit round robin (Shreedhar and Varghese, 1996) over what one round of the worker has for the queue; whatever does
//! not fit afterwards is dropped, and is then a part of what the greediest have. Used only when there is no room for all.

use std::collections::{HashMap, VecDeque};

use crate::counters::Blame;

/// Units of room a pod may use in a turn: the largest packet.
const QUANTUM: usize = espalier_xsk::MAX_SEGMENTS;

/// What one pod has queued, with its sizes.
type Line<A, B> = VecDeque<(A, B, usize)>;

/// Puts both lists, which go together, into the order of turns. Packets of one pod stay in their order. Each packet has
/// a claimant and a size in units of the queue's room.
pub(super) fn take_turns<A, B>(
    first: &mut Vec<A>,
    second: &mut Vec<B>,
    claim: impl Fn(&A, &B) -> (Blame, usize),
) {
    let mut numbers: HashMap<Blame, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut waiting: Vec<Line<A, B>> = Vec::new();
    for (a, b) in first.drain(..).zip(second.drain(..)) {
        let (claimant, size) = claim(&a, &b);
        let number = *numbers.entry(claimant).or_insert_with(|| {
            waiting.push(VecDeque::new());
            waiting.len() - 1
        });
        waiting[number].push_back((a, b, size));
    }
    let mut turns: VecDeque<(Line<A, B>, usize)> = waiting.into_iter().map(|queue| (queue, 0)).collect();
    while let Some((mut queue, mut deficit)) = turns.pop_front() {
        deficit += QUANTUM;
        while let Some((a, b, size)) = queue.pop_front_if(|(_, _, size)| *size <= deficit) {
            deficit -= size;
            first.push(a);
            second.push(b);
        }
        if !queue.is_empty() {
            turns.push_back((queue, deficit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::PodSlot;

    const FLOOD: Blame = Blame::Egress(PodSlot(1));
    const QUIET: Blame = Blame::Egress(PodSlot(2));

    fn order(packets: &[(Blame, usize)]) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..packets.len()).collect();
        let mut claims = packets.to_vec();
        take_turns(&mut numbers, &mut claims, |_, claim| *claim);
        assert_eq!(numbers.iter().map(|number| packets[*number]).collect::<Vec<_>>(), claims);
        numbers
    }

    #[test]
    fn one_that_sends_little_comes_before_the_rest_of_one_that_sends_much() {
        let mut packets = vec![(FLOOD, 1); 100];
        packets.extend([(QUIET, 1), (QUIET, 1)]);
        let order = order(&packets);
        let place = |number: usize| order.iter().position(|at| *at == number).unwrap();
        assert_eq!((place(100), place(101)), (5, 6));
        let flood: Vec<_> = order.iter().filter(|number| **number < 100).copied().collect();
        assert!(flood.is_sorted() && flood.len() == 100);
    }

    #[test]
    fn long_packets_count_for_what_they_take() {
        let packets: Vec<_> = (0..40).map(|at| if at < 20 { (FLOOD, 5) } else { (QUIET, 1) }).collect();
        let order = order(&packets);
        let first = &order[..12];
        assert_eq!(
            first.iter().filter(|number| **number < 20).count(),
            2,
            "as much room for each: {first:?}"
        );
    }

    #[test]
    fn nothing_and_one_alone_stay_as_they_are() {
        assert_eq!(order(&[]), [0; 0]);
        assert_eq!(order(&[(FLOOD, 3), (FLOOD, 1), (FLOOD, 5)]), [0, 1, 2]);
    }
}
