//! Network namespaces as values: made, entered, wired with veth pairs, and gone when dropped, also on panic.
//!
//! Used by the lab's topology and, as a dev-dependency, by the tests of every crate that needs a real kernel
//! network. Names under `/run/netns` and iproute2 do the work, so that `ip netns` shows the same things.
//! Nothing here leaves the calling thread in another namespace.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps the names.
const NETNS_DIR: &str = "/run/netns";

/// What went wrong with a namespace or with something inside it.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// A tool of the system could not be started.
    #[error("cannot run {tool}: {source} (install the package that has it: iproute2 or ethtool)")]
    Tool {
        /// `ip` or `ethtool`.
        tool: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A tool refused.
    #[error("{command} in network namespace {namespace} failed: {message}")]
    Refused {
        /// The command line.
        command: String,
        /// The namespace it was for.
        namespace: String,
        /// What it said.
        message: String,
    },
    /// The namespace could not be entered.
    #[error("cannot enter network namespace {namespace}: {source} (is it there, and are you root?)")]
    Enter {
        /// Its name.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// A file under `/proc/sys` could not be written, or a process not started.
    #[error("{what} in network namespace {namespace}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Its name.
        namespace: String,
        /// Why.
        source: io::Error,
    },
}

/// A named network namespace. The one who created it deletes it when dropping it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    owned: bool,
}

/// A name no other process and no other call uses: `<tag>-<pid>-<n>`.
pub fn unique_name(tag: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{tag}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl NetNs {
    /// Makes a namespace with its loopback up. Without IPv6 duplicate address detection, so that addresses are
    /// usable at once, and without reverse path filtering. It is deleted on drop.
    pub fn create(name: impl Into<String>) -> Result<Self, NetNsError> {
        let name = name.into();
        run_tool("ip", Command::new("ip").args(["netns", "add", &name]), &name, None)?;
        let namespace = Self { name, owned: true };
        namespace.run(|| {
            for key in ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad"] {
                // A kernel without IPv6 has no such file and nothing to switch off.
                let _ = fs::write(format!("/proc/sys/net/{key}"), "0");
            }
        })?;
        for interface in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A handle on a namespace that somebody else deletes. It need not exist yet.
    pub fn existing(name: impl Into<String>) -> Self {
        Self { name: name.into(), owned: false }
    }

    /// The name `ip netns` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace (`nsenter --net=<path>`).
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Gives up deleting it; somebody else will.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.owned = false;
        self
    }

    /// Deletes the name now. Processes still inside keep the namespace alive until they end.
    pub fn delete(mut self) -> Result<(), NetNsError> {
        self.owned = false;
        if !self.exists() {
            return Ok(());
        }
        run_tool("ip", Command::new("ip").args(["netns", "del", &self.name]), &self.name, None).map(|_| ())
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there stay in the namespace and can be
    /// handed out. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.path())
                    .map_err(|source| NetNsError::Enter { namespace: self.name.clone(), source })?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a process inside. Unlike `ip netns exec`, the mounts stay as they are, so bpffs is visible.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, NetNsError> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.map_err(|source| self.io(format!("cannot start {program}"), source))
    }

    /// Runs a process inside and collects its output.
    pub fn output(&self, command: &mut Command) -> Result<Output, NetNsError> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output())?.map_err(|source| self.io(format!("cannot start {program}"), source))
    }

    /// Runs iproute2 commands inside, one a line, without the leading `ip` (`addr add 10.0.0.1/24 dev eth0`).
    /// Options such as `-6` have no place in a line: addresses tell their family themselves.
    pub fn ip(&self, lines: &str) -> Result<(), NetNsError> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        run_tool("ip", &mut command, &self.name, Some(lines)).map(|_| ())
    }

    /// What `ip <arguments>` prints inside.
    pub fn ip_show(&self, arguments: &str) -> Result<String, NetNsError> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        run_tool("ip", &mut command, &self.name, None)
    }

    /// Traffic control inside: `tc <arguments>`.
    pub fn tc(&self, arguments: &str) -> Result<(), NetNsError> {
        let mut command = Command::new("tc");
        // `tc -n` mounts a /sys of its own, and then would take the first bpffs it finds, which may be another lab's on
        // its way out (iproute2 lib/bpf_legacy.c, bpf_get_work_dir). Named, it mounts one there that goes with it.
        command.env("TC_BPF_MNT", "/sys/fs/bpf");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        run_tool("tc", &mut command, &self.name, None).map(|_| ())
    }

    /// Switches offloads of an interface: `offload("eth0", "tx off txvlan off")`.
    pub fn offload(&self, interface: &str, features: &str) -> Result<(), NetNsError> {
        let mut command = Command::new("ethtool");
        command.args(["-K", interface]).args(features.split_whitespace());
        self.run(|| run_tool("ethtool", &mut command, &self.name, None))?.map(|_| ())
    }

    /// Runs a line of shell with the namespace's own `/sys`, which nothing else that runs inside sees; gives what it prints.
    pub fn with_sysfs(&self, line: &str) -> Result<String, NetNsError> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "sh", "-ec", line]);
        run_tool("ip", &mut command, &self.name, None).map(|shown| shown.trim().to_owned())
    }

    /// Writes a kernel setting: `sysctl("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), NetNsError> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value))?
            .map_err(|source| self.io(format!("cannot write {path}"), source))
    }

    /// Makes a veth pair: `name` here, `peer_name` in `peer` (which may be this namespace). Both ends stay down.
    pub fn veth(&self, name: &str, peer: &Self, peer_name: &str) -> Result<(), NetNsError> {
        self.ip(&format!("link add name {name} type veth peer name {peer_name} netns {}", peer.name))
    }

    fn io(&self, what: String, source: io::Error) -> NetNsError {
        NetNsError::Io { what, namespace: self.name.clone(), source }
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.owned {
            // Nobody is left to hear of a failure; `lab down` and the next boot clean up.
            let _ = run_tool("ip", Command::new("ip").args(["netns", "del", &self.name]), &self.name, None);
        }
    }
}

/// Moves the calling thread; only ever called on threads made for it.
fn enter(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn run_tool(
    tool: &'static str,
    command: &mut Command,
    namespace: &str,
    input: Option<&str>,
) -> Result<String, NetNsError> {
    // A Ctrl-C on the terminal is for the lab, which then needs its tools to clear up.
    command.process_group(0);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = |source| NetNsError::Tool { tool, source };
    let mut child = command.spawn().map_err(start)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A tool that stops reading early says why on stderr.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetNsError::Refused {
        command: format!("{tool} {}", arguments.join(" ")),
        namespace: namespace.to_owned(),
        message: match input {
            Some(text) => format!("{message} [{}]", text.trim().replace('\n', "; ")),
            None => message,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn two_namespaces_on_a_veth_pair_speak_tcp() {
        let (left, right) =
            (NetNs::create(unique_name("labns")).unwrap(), NetNs::create(unique_name("labns")).unwrap());
        left.veth("eth0", &right, "eth0").unwrap();
        left.ip("addr add 10.9.0.1/24 dev eth0\nlink set eth0 up").unwrap();
        right.ip("addr add 10.9.0.2/24 dev eth0\nlink set eth0 up").unwrap();
        let listener = right.run(|| TcpListener::bind("10.9.0.2:7000")).unwrap().unwrap();
        let server = thread::spawn(move || listener.accept().unwrap().0.write_all(b"from right").unwrap());
        let mut stream = left.run(|| TcpStream::connect("10.9.0.2:7000")).unwrap().unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "from right");
        server.join().unwrap();
    }

    #[test]
    fn a_namespace_is_gone_after_drop_delete_and_panic() {
        let dropped = NetNs::create(unique_name("labns")).unwrap();
        let path = dropped.path();
        assert!(path.exists());
        drop(dropped);
        assert!(!path.exists());

        let name = unique_name("labns");
        NetNs::create(&name).unwrap().delete().unwrap();
        assert!(!NetNs::existing(&name).exists());

        let name = unique_name("labns");
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let namespace = NetNs::create(&name).unwrap();
            namespace.run(|| panic!("inside")).unwrap();
        }));
        assert_eq!(*outcome.unwrap_err().downcast_ref::<&str>().unwrap(), "inside");
        assert!(!NetNs::existing(&name).exists());
    }

    #[test]
    fn the_caller_stays_where_it_is_and_children_start_inside() {
        let namespace = NetNs::create(unique_name("labns")).unwrap();
        let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = namespace.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(here, inside);
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), here);
        let output = namespace.output(Command::new("readlink").arg("/proc/self/ns/net")).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), inside.to_str().unwrap());
    }

    #[test]
    fn errors_name_the_namespace_and_the_command() {
        let namespace = NetNs::create(unique_name("labns")).unwrap();
        let error = namespace.ip("link set nosuch up").unwrap_err().to_string();
        assert!(error.contains(namespace.name()) && error.contains("link set nosuch up"), "{error}");
        let error = NetNs::create(namespace.name()).unwrap_err().to_string();
        assert!(error.contains("File exists"), "{error}");
        assert!(namespace.exists(), "a failed create must not delete the other one's namespace");
        let error = NetNs::existing("labns-none").run(|| ()).unwrap_err().to_string();
        assert!(error.contains("labns-none"), "{error}");
    }
}
