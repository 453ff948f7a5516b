//! The reflector, and the search for the no-loss rate.

use crate::site::Site;

#[test]
fn reflected_frames_come_back_once_and_in_order() {
    let site = Site::new(1500);
    let reflector = site.start_at_blue("reflect BLUE");
    for engine in ["af-xdp", "kernel"] {
        let said = site.run(&format!(
            "send RED --receive self --engine {engine} --dst-mac 02:00:00:00:00:02 --src 10.0.0.0/28,fd00::/124 \
             --dst 10.1.0.1,fd01::1 --protocol udp,tcp,icmp --flows 30 --vlan 9 --size 128 --count 1500 --rate 3kpps \
             --max-loss 0 --strict"
        ));
        said.assert_all_came(1500);
    }
    reflector.interrupt();
    let said = reflector.finish();
    assert_eq!(said.code, 0, "{}", said.error);
    assert_eq!(["received", "reflected", "ignored"].map(|n| said.number(&format!("/{n}"))), [3000, 3000, 0]);
    site.assert_clean();
}

#[test]
fn the_search_ends_with_the_highest_rate_allowed_when_nothing_is_lost() {
    let site = Site::new(1500);
    for engine in ["af-xdp", "kernel"] {
        let said = site.run(&format!(
            "send RED --receive BLUE --engine {engine} --src 10.0.0.1 --dst 10.1.0.1 --search --rate 2kpps --trial 300ms"
        ));
        assert_eq!(said.code, 0, "{} {}", said.json, said.error);
        let best = said.float("/best/pps");
        assert!(best > 0.0 && best < 2000.0 * 1.02, "{best}");
        assert_eq!(said.number("/best/lost"), 0);
        assert_eq!(said.json["trials"].as_array().unwrap().len(), 1);
    }
}

/// An interface that nothing leads to.
fn aside(site: &Site) -> String {
    site.blue.veth("aside0", &site.blue, "aside1").unwrap();
    site.blue.ip("link set aside0 up\nlink set aside1 up").unwrap();
    format!("{}:aside0", site.blue.name())
}

#[test]
fn loss_beyond_what_is_allowed_is_exit_code_one() {
    let site = Site::new(1500);
    let line = format!(
        "send RED --receive {} --src 10.0.0.1 --dst 10.1.0.1 --count 50 --rate 5kpps --settle 20ms",
        aside(&site)
    );
    for (allowed, code) in [("", 0), ("--max-loss 100", 0), ("--max-loss 99", 1), ("--max-loss 0", 1)] {
        let said = site.run(&format!("{line} {allowed}"));
        assert_eq!((said.code, said.account("/received")), (code, [0, 0, 50, 0, 0, 0]), "{allowed}");
        assert_eq!(said.float("/received/loss_percent"), 100.0);
    }
}

#[test]
fn the_search_says_so_when_everything_is_lost() {
    let site = Site::new(1500);
    let aside = aside(&site);
    let said = site.run(&format!(
        "send RED --receive {aside} --src 10.0.0.1 --dst 10.1.0.1 --search --rate 500pps --trial 50ms --settle 20ms"
    ));
    assert_eq!(said.code, 1, "{} {}", said.json, said.error);
    assert!(said.json["best"].is_null());
    let trials = said.json["trials"].as_array().unwrap();
    assert!(trials.len() > 3 && trials.iter().all(|trial| trial["loss_percent"] == 100.0), "{trials:?}");
}
