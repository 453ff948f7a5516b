//! `deploy/daemonset.yaml` says what Kubernetes understands, starts the programs as they can be started, and gives each no
//! more than it needs.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;
use espalier_control::config::Config;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use crate::site::{AGENT, cli, switch};

fn manifest(name: &str) -> Vec<Value> {
    let path = format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn pod() -> PodSpec {
    let [document] = manifest("daemonset.yaml").try_into().unwrap();
    let set: DaemonSet = serde_json::from_value(document).unwrap();
    set.spec.unwrap().template.spec.unwrap()
}

fn container(name: &str) -> Container {
    pod().containers.into_iter().find(|container| container.name == name).unwrap()
}

/// Whether a program takes these arguments: help is what it gives once it has read all before it.
fn takes(program: &Path, arguments: &[String]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().code() == Some(0)
}

#[test]
fn every_field_is_one_that_kubernetes_knows() {
    let [document] = manifest("daemonset.yaml").try_into().unwrap();
    let set: DaemonSet = serde_json::from_value(document.clone()).unwrap();
    // A field that is unknown or misspelt is not there any more.
    assert_eq!(serde_json::to_value(&set).unwrap(), document);
    let spec = set.spec.unwrap();
    assert_eq!(spec.selector.match_labels, spec.template.metadata.unwrap().labels);
}

#[test]
fn the_programs_take_their_arguments_and_variables() {
    let programs = [("switch", switch()), ("agent", Path::new(AGENT))];
    for (name, program) in programs {
        let mut arguments = container(name).args.unwrap();
        assert!(takes(program, &arguments), "{name}: {arguments:?}");
        arguments[0] = "--no-such-flag=1".to_owned();
        assert!(!takes(program, &arguments), "an unknown flag of {name} must be seen");
    }
    let command = Config::command();
    let known: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    for variable in container("agent").env.unwrap() {
        assert!(known.iter().any(|name| *name == variable.name.as_str()), "{}", variable.name);
    }
    let alive = container("switch").liveness_probe.unwrap().exec.unwrap().command.unwrap();
    assert_eq!(alive[0], "espalier");
    assert!(takes(cli(), &alive[1..]), "{alive:?}");
}

#[test]
fn probes_ask_where_the_agent_listens() {
    let agent = container("agent");
    let listen = |probe: k8s_openapi::api::core::v1::Probe| {
        let http = probe.http_get.unwrap();
        let port = serde_json::to_value(http.port).unwrap();
        (format!("--listen={}:{port}", http.host.unwrap()), http.path.unwrap())
    };
    let arguments = agent.args.unwrap();
    for (probe, path) in [(agent.liveness_probe, "/healthz"), (agent.readiness_probe, "/readyz")] {
        let (flag, asked) = listen(probe.unwrap());
        assert!(arguments.contains(&flag), "{flag}");
        assert_eq!(asked, path);
    }
}

#[test]
fn each_container_has_what_it_needs_and_no_more() {
    let pod = pod();
    assert_eq!((pod.host_network, pod.automount_service_account_token), (Some(true), Some(false)));
    let accounts = manifest("rbac.yaml");
    let account = accounts.iter().find(|document| document["kind"] == "ServiceAccount").unwrap();
    assert_eq!(account["metadata"]["name"].as_str(), pod.service_account_name.as_deref());

    for (name, capabilities, volumes) in [
        ("switch", ["NET_ADMIN", "NET_RAW", "BPF", "IPC_LOCK"].as_slice(), ["run", "bpf"]),
        ("agent", &[], ["run", "token"]),
    ] {
        let container = container(name);
        let mounts = container.volume_mounts.unwrap();
        assert_eq!(mounts.iter().map(|mount| mount.name.as_str()).collect::<Vec<_>>(), volumes);
        let security = container.security_context.unwrap();
        assert_eq!(security.read_only_root_filesystem, Some(true), "{name}");
        assert_eq!((security.privileged, security.allow_privilege_escalation), (None, Some(false)), "{name}");
        let granted = security.capabilities.unwrap();
        assert_eq!(granted.drop, Some(vec!["ALL".to_owned()]), "{name}");
        assert_eq!(granted.add.unwrap_or_default(), capabilities, "{name}");
        // Sockets and state lie on what is mounted, because all else is read only.
        for path in container.args.unwrap().iter().filter_map(|argument| Some(argument.split_once("=/")?.1)) {
            let path = Path::new("/").join(path);
            assert!(mounts.iter().any(|mount| path.starts_with(&mount.mount_path)), "{}", path.display());
        }
    }
}
