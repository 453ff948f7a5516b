//! The agent's own process on a node with 250 pods in a Region with 1,000 groups, 60,000 rules and 100,000 members.

use std::process::{Command, Stdio};
use std::time::Instant;

use espalier_api::agent::AgentStatus;
use serde_json::json;

use crate::kit::big_ec2::{BigEc2, Size, pod_interface};
use crate::kit::kube_api::KubeApi;
use crate::site::{get, wait_for};

const SIZE: Size = Size::LARGE;

/// Most memory the agent may ever have had, in KiB.
const MOST_MEMORY: u64 = 200 << 10;

/// A field of `/proc/PID/status` in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_stays_small_on_a_large_node() {
    let (kube, ec2) = (KubeApi::start().await, BigEc2::start(SIZE).await);
    for index in 0..SIZE.pods {
        let address = format!("172.16.{}.{}", index / 200, 10 + index % 200);
        let mac = format!("06:00:00:00:{:02x}:{:02x}", index / 256, index % 256);
        let branch = json!([{ "eniId": pod_interface(index), "ifAddress": mac, "privateIp": address,
            "ipv6Addr": "", "vlanId": index + 1, "subnetCidr": "172.16.0.0/16", "subnetV6Cidr": "" }]);
        kube.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "t", "name": format!("p{index}"), "labels": { "app": "web" },
                "annotations": { "vpc.amazonaws.com/pod-eni": branch.to_string() } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": address }] },
        }));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kubeconfig"), kube.kubeconfig()).unwrap();
    let socket = folder.path().join("agent.sock");
    let begun = Instant::now();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_espalier-agent"))
        .args(["--node-name", "n1", "--trunk", "lo", "--ec2-region", "eu-west-1"])
        .args([
            "--ec2-endpoint",
            &ec2.url(),
            "--switch-socket",
            "/nonexistent/switch.sock",
            "--events",
            "off",
        ])
        .arg("--socket")
        .arg(&socket)
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .env("AWS_ACCESS_KEY_ID", "AKIATEST")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = || {
        let body = get(&socket, "/v1/status")?;
        serde_json::from_slice::<AgentStatus>(&body).ok()
    };
    let synced = wait_for(|| {
        status().is_some_and(|status| {
            status.sources.iter().all(|source| source.synced)
                && status.sources.iter().any(|source| source.known.get("members") == Some(&100_000))
        })
    });
    let took = begun.elapsed();
    let peak = memory(agent.id(), "VmHWM");
    let last = status();
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(synced, "{last:#?}");
    println!("synced after {took:?}, peak {} MiB", peak >> 10);
    assert!(peak < MOST_MEMORY, "{} MiB", peak >> 10);
}
