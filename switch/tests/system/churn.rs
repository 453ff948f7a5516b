//! A pod that comes and goes under traffic: nothing leaks, and nobody else notices.

use crate::process::{Held, resident_kib, xdp_sockets};
use crate::site::{FAR, Site, wait_for};
use crate::traffic::{blind, steady, udp_echo};

/// Cycles after which the allocator has what it will ever need.
const WARM_UP: u32 = 100;

/// Cycles between which memory is looked at. The allocator keeps pages for a while: its low water tells of a leak.
const LOOKS: u32 = 20;

/// `ESPALIER_CHURN_CYCLES` runs it for longer.
const CYCLES: u32 = 200;

/// The allocator takes some MiB at a time, after hundreds of cycles too. A leak grows in every stretch of cycles.
const STRETCHES: u32 = 3;
const MOST_GROWTH_KIB: i64 = 4096;
/// Of one stretch, whatever the next ones do.
const MOST_AT_ONCE_KIB: i64 = 2 * MOST_GROWTH_KIB;

#[test]
fn attaching_and_detaching_leaks_nothing_and_disturbs_nobody() {
    let cycles = std::env::var("ESPALIER_CHURN_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let mut site = Site::open();
    let (a, b) = (site.namespace("t/a").unwrap(), site.namespace("t/b").unwrap());
    let to = format!("{FAR}:7");
    let echo = udp_echo(site.namespace("far").unwrap(), &to);
    let other = steady(a, "0.0.0.0:0", &to);
    let own = blind(b, "0.0.0.0:0", &to);
    let pod = site.snapshot.pods.pop().unwrap();
    let pid = site.status().pid;

    for _ in 0..WARM_UP {
        cycle(&mut site, &pod);
    }
    let mut resident = least_resident(&mut site, &pod);
    let held = Held::lastingly_by(pid);
    let in_kernel = |site: &Site| xdp_sockets(site.topology().node());
    let kernel = in_kernel(&site);
    let leaks = (0..STRETCHES).all(|_| {
        for _ in 0..cycles {
            cycle(&mut site, &pod);
        }
        let grown = least_resident(&mut site, &pod) - resident;
        resident += grown;
        println!(
            "{cycles} cycles: resident memory {resident} KiB, grown by {grown} KiB; {held:?}; {kernel} AF_XDP sockets"
        );
        assert!(grown <= MOST_AT_ONCE_KIB, "resident memory grew by {grown} KiB");
        grown > MOST_GROWTH_KIB
    });
    assert!(!leaks, "resident memory grew by more than {MOST_GROWTH_KIB} KiB {STRETCHES} times running");
    assert_eq!(Held::lastingly_by(pid), held);
    assert!(wait_for(|| in_kernel(&site) == kernel), "{kernel} sockets before, {} after", in_kernel(&site));

    let (other, own) = (other.stop(), own.stop());
    println!("the other pod's flow: {other:?}; the pod's own: {own:?}");
    assert!(other.sent > u64::from(cycles) && other.answered == other.sent, "{other:?}");
    assert!(own.answered > u64::from(cycles / 4), "the pod's traffic never ran: {own:?}");
    drop(echo);
    frames_come_back(&mut site, &pod);
}

/// The least memory over some cycles.
fn least_resident(site: &mut Site, pod: &espalier_api::Pod) -> i64 {
    let pid = site.status().pid;
    let looks = (0..LOOKS).map(|_| {
        cycle(site, pod);
        resident_kib(pid)
    });
    looks.min().unwrap()
}

/// Attaches the pod, and detaches it again.
fn cycle(site: &mut Site, pod: &espalier_api::Pod) {
    site.change(|snapshot| snapshot.pods.push(pod.clone()));
    site.change(|snapshot| snapshot.pods.truncate(1));
}

/// Without the pod, and after one more round without traffic, each owner has what it had.
fn frames_come_back(site: &mut Site, pod: &espalier_api::Pod) {
    let without = site.assert_balanced().frames;
    site.change(|snapshot| snapshot.pods.push(pod.clone()));
    let with = site.assert_balanced().frames;
    assert_eq!(with.total, without.total);
    assert!(with.fill > without.fill && with.free < without.free, "{with:?} {without:?}");
    site.change(|snapshot| snapshot.pods.truncate(1));
    assert!(wait_for(|| site.status().frames == without), "{without:?} {:?}", site.status().frames);
    assert_eq!((without.rx, without.worker, without.tx), (0, 0, 0));
}
