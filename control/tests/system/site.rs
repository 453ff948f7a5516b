//! A node in the lab with everything real: pods in namespaces, the switch, the agent, the API server, EC2.
//!
//! The agent runs as its own process, as on a node; the pods' veths have the names the AWS CNI would give them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{IpPermission, IpRange, UserIdGroupPair};
use espalier_api::GroupId;
use espalier_api::agent::AgentStatus;
use espalier_lab::{Lab, Options, Scenario};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ec2::world::World;
use crate::kit::kube_api::KubeApi;

#[path = "../../../lab/tests/support/built.rs"]
mod built;

pub(crate) use built::switch;

/// The operator's command.
pub(crate) fn cli() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built::build("ESPALIER_CLI", &["espalier-cli"]))
}

/// The longest wait for anything, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that is allowed is there in milliseconds; one that is not is tried again as often as need be.
const CONNECT: Duration = Duration::from_millis(100);

/// The program under test.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_espalier-agent");

/// Two pods, a host elsewhere in the VPC.
const SCENARIO: &str = "
name: agent
vpc: {cidrs: [10.0.0.0/16]}
subnets: [{name: nodes, cidrs: [10.0.0.0/24]}, {name: pods, cidrs: [10.0.1.0/24]}, {name: data, cidrs: [10.0.2.0/24]}]
node: {subnet: nodes, addresses: [10.0.0.10]}
hosts: [{name: far, subnet: data, addresses: [10.0.2.20]}]
pods:
  - {name: t/a, subnet: pods, addresses: [10.0.1.10], securityGroups: [sg-none]}
  - {name: t/b, subnet: pods, addresses: [10.0.1.11], securityGroups: [sg-none]}
securityGroups: [{groupId: sg-none, rules: []}]
";

/// Port that a rule allows at first, and another one.
pub(crate) const PORTS: [u16; 2] = [8080, 9090];

/// The node and what is around it; gone on drop.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) kube: KubeApi,
    pub(crate) world: World,
    folder: TempDir,
    agent: Option<Child>,
    flags: Vec<String>,
    /// Whether agents started from now on have AWS credentials.
    pub(crate) credentials: bool,
    servers: Vec<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Site {
    /// Everything but the agent. Both pods have a branch, and servers on [`PORTS`].
    pub(crate) async fn new(flags: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ag{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scenario = Scenario::parse(SCENARIO).unwrap();
        let options = Options { name: name.parse().unwrap(), ..Options::default() };
        let mut lab = Lab::network(&options, scenario).unwrap_or_else(|error| panic!("{error}"));
        for (index, pod) in ["t/a", "t/b"].into_iter().enumerate() {
            let from = lab.scenario().host_veth(index);
            let to = veth(pod);
            let lines = format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up");
            lab.topology().node().ip(&lines).unwrap();
        }
        lab.start_switch(&switch().to_owned(), &[], "info").unwrap_or_else(|error| panic!("{error}"));
        let (kube, world) = (KubeApi::start().await, World::new().await);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("kubeconfig"), kube.kubeconfig()).unwrap();
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut site =
            Self { lab, kube, world, folder, agent: None, flags, credentials: true, servers: Vec::new() };
        for port in PORTS {
            site.serve("t/b", port);
        }
        site
    }

    /// A pod with a branch, as the VPC resource controller leaves it.
    pub(crate) async fn pod(&self, index: usize, labels: Value, eni_groups: &[&GroupId]) -> String {
        let snapshot = self.lab.scenario().snapshot().unwrap();
        let pod = &snapshot.pods[index];
        let address = pod.addresses[0].to_string();
        let eni = self.world.interface(&address, eni_groups).await;
        let branch = json!([{ "eniId": eni, "ifAddress": pod.mac, "privateIp": address, "ipv6Addr": "",
            "vlanId": pod.vlan, "subnetCidr": "10.0.1.0/24", "subnetV6Cidr": "", "associationID": "trunk-assoc-1" }]);
        self.kube.apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": pod.name.namespace(), "name": pod.name.name(), "labels": labels,
                "annotations": { "vpc.amazonaws.com/pod-eni": branch.to_string() } },
            "spec": { "nodeName": "n1", "serviceAccountName": "default", "containers": [{ "name": "c", "image": "i" }] },
            "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
        }));
        eni.to_string()
    }

    /// A policy for pods with `app: <app>`.
    pub(crate) fn policy(&self, name: &str, app: &str, groups: &[&str]) {
        self.kube.apply(json!({
            "apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy",
            "metadata": { "namespace": "t", "name": name },
            "spec": { "podSelector": { "matchLabels": { "app": app } }, "securityGroups": { "groupIds": groups } },
        }));
    }

    /// A folder that lasts as long as the site.
    pub(crate) fn subfolder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A further flag for the agents started from now on.
    pub(crate) fn flag(&mut self, name: &str, value: &Path) {
        self.flags.extend([name.to_owned(), value.display().to_string()]);
    }

    /// Starts the agent; again after it was killed.
    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.spawn_agent("agent"));
    }

    /// Another agent for the same switch, with another socket.
    pub(crate) fn second_agent(&self) -> SecondAgent {
        SecondAgent { process: self.spawn_agent("second"), log: self.folder.path().join("second.log") }
    }

    fn spawn_agent(&self, name: &str) -> Child {
        let log = self.folder.path().join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(AGENT);
        command
            .args(["--node-name", "n1", "--trunk", "trunk0", "--ec2-region", "eu-west-1"])
            .args(["--ec2-poll", "0.5", "--ec2-poll-floor", "0.5", "--ec2-poll-ceiling", "0.5"])
            .args(["--ec2-requests-per-minute", "100000", "--ec2-endpoint", &self.world.proxy.url()])
            .arg("--switch-socket")
            .arg(self.lab.control().socket())
            .arg("--socket")
            .arg(self.folder.path().join(format!("{name}.sock")))
            .args(&self.flags)
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if self.credentials {
            command.env("AWS_ACCESS_KEY_ID", "AKIATEST").env("AWS_SECRET_ACCESS_KEY", "secret");
        } else {
            // No profile, no role, no metadata service: every link of the chain ends.
            for (name, _) in
                std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"))
            {
                command.env_remove(name);
            }
            command.env("HOME", self.folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        }
        command.spawn().unwrap()
    }

    /// Ends the agent without a warning.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// What the agent said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// What the operator's command says on this node: exit code and output.
    pub(crate) fn espalier(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(cli());
        command.arg("--socket").arg(self.lab.control().socket());
        let output = command.arg("--agent-socket").arg(self.agent_socket()).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// The agent's status, once it answers.
    pub(crate) fn agent_status(&self) -> Option<AgentStatus> {
        serde_json::from_slice(&get(&self.agent_socket(), "/v1/status")?).ok()
    }

    /// Waits for the agent to say something.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, right: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        let mut last = None;
        let found = wait_for(|| {
            last = self.agent_status();
            last.as_ref().is_some_and(&right)
        });
        assert!(found, "{what} did not come to pass: {last:#?}\n{}", self.log());
        last.unwrap()
    }

    /// Waits until everything desired is enforced.
    #[track_caller]
    pub(crate) fn ready(&self) -> AgentStatus {
        self.until("ready", |status| status.ready)
    }

    /// Whether a new connection is made.
    pub(crate) fn connects(&self, from: &str, to: &str, port: u16) -> bool {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        let namespace = self.lab.namespace(from).unwrap();
        let answer = namespace.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        answer.unwrap().is_ok_and(|text| text == "hello")
    }

    /// Waits until connections are made, or are not; how long it took.
    #[track_caller]
    pub(crate) fn until_connects(&self, from: &str, to: &str, port: u16, allowed: bool) -> Duration {
        let start = Instant::now();
        let done = wait_for(|| self.connects(from, to, port) == allowed);
        assert!(
            done,
            "{from} to {to}:{port} should be {allowed}: {:#?}\n{}",
            self.agent_status(),
            self.log()
        );
        start.elapsed()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("agent.log")
    }

    /// Answers every connection with `hello`.
    fn serve(&mut self, pod: &str, port: u16) {
        let namespace = self.lab.namespace(pod).unwrap();
        let listener = namespace.run(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => drop(stream.write_all(b"hello")),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        self.servers.push((stop, thread));
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill_agent();
        for (stop, thread) in self.servers.drain(..) {
            stop.store(true, Ordering::Relaxed);
            let _ended = thread.join();
        }
    }
}

/// An agent that comes second.
pub(crate) struct SecondAgent {
    process: Child,
    log: PathBuf,
}

impl SecondAgent {
    /// Waits for words in its log.
    #[track_caller]
    pub(crate) fn until_says(&self, words: &str) -> String {
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(wait_for(|| log().contains(words)), "{words:?} not said: {}", log());
        log()
    }
}

impl Drop for SecondAgent {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Host end of a pod's veth by the AWS CNI's rule in strict mode.
fn veth(pod: &str) -> String {
    let mut child = Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(pod.replace('/', ".").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    format!("vlan{}", &String::from_utf8(output.stdout).unwrap()[..11])
}

/// `GET` over a unix socket.
pub(crate) fn get(socket: &Path, path: &str) -> Option<Vec<u8>> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).ok()?;
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(reply.split_off(end + 4))
}

/// Looks until it holds, or for as long as anybody would wait.
pub(crate) fn wait_for(holds: impl FnMut() -> bool) -> bool {
    espalier_lab::wait_for(PATIENCE, holds)
}

/// Everything to anywhere.
pub(crate) fn everything() -> IpPermission {
    let all = IpRange::builder().cidr_ip("0.0.0.0/0").build();
    IpPermission::builder().ip_protocol("-1").ip_ranges(all).build()
}

/// TCP to a port from members of a group.
pub(crate) fn tcp_from(group: &GroupId, port: u16) -> IpPermission {
    let source = UserIdGroupPair::builder().group_id(group.as_str()).build();
    let builder = IpPermission::builder().ip_protocol("tcp").user_id_group_pairs(source);
    builder.from_port(port.into()).to_port(port.into()).build()
}
