//! Connections over a restart: what was tracked goes on, though no rule would let anybody begin it from the middle.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::live::{ONLY_UDP, TCP, scenario};
use crate::site::{Site, wait_for};
use crate::traffic::{carries, connection, converses};

/// A flow is written down within this time, on an idle machine.
const WRITTEN_WITHIN: Duration = Duration::from_millis(1500);

#[test]
fn a_connection_goes_on_after_a_kill() {
    let (mut site, mut near, mut far) = connected(&[]);
    await_written(&site);
    restart(&mut site, Signal::KILL, &[]);
    assert!(carries(&mut far, &mut near), "the pod's side must go on first: no rule lets it begin TCP");
    assert!(converses(&mut near, &mut far));
    site.assert_balanced();
}

#[test]
fn a_connection_goes_on_after_an_orderly_end() {
    let (mut site, mut near, mut far) = connected(&[]);
    restart(&mut site, Signal::TERM, &[]);
    assert!(carries(&mut far, &mut near), "the pod's side must go on first: no rule lets it begin TCP");
    assert!(converses(&mut near, &mut far));
    site.assert_balanced();
}

/// The proof that the two above prove something.
#[test]
fn without_a_state_file_the_pod_must_wait_for_its_client() {
    let flags = ["--flow-state", "none"];
    let (mut site, mut near, mut far) = connected(&flags);
    restart(&mut site, Signal::TERM, &flags);
    far.write_all(b"hello").unwrap();
    let denied = || site.pod("t/a").counters.egress_dropped.get("denied-egress").copied().unwrap_or_default();
    assert!(wait_for(|| denied() >= 2), "{}", denied());
    near.set_nonblocking(true).unwrap();
    assert_eq!(near.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

type Ends = (Site, std::net::TcpStream, std::net::TcpStream);

/// A connection from the host into pod a, which may answer and nothing else.
fn connected(flags: &[&str]) -> Ends {
    let site = Site::idle(scenario(ONLY_UDP), None, flags);
    site.apply_snapshot();
    let (mut near, mut far) =
        connection(site.namespace("far").unwrap(), site.namespace("t/a").unwrap(), TCP).unwrap();
    assert!(converses(&mut near, &mut far));
    (site, near, far)
}

fn await_written(site: &Site) {
    let file = site.control().socket().with_extension("flows");
    let since = SystemTime::now() + WRITTEN_WITHIN;
    let written = || fs::metadata(&file).is_ok_and(|file| file.modified().unwrap() > since);
    assert!(wait_for(written), "{} is not kept", file.display());
}

fn restart(site: &mut Site, signal: Signal, flags: &[&str]) {
    site.end(signal);
    site.start_switch_again(flags);
    site.apply_snapshot();
}
