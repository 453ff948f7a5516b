//! EC2 as moto serves it: one server for all tests of the program, and a client to fill it with.
//!
//! Tests share the server and make their own VPCs, so that none sees another's groups. It ends with the test program,
//! however that ends: a shell holds it as long as a pipe from here is open.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::{env, thread};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};

/// Ends the server when the pipe closes; `$0` is the server.
const KEEPER: &str = r#""$0" -H 127.0.0.1 -p 0 & read -r line; kill $!; wait $!"#;

struct Moto {
    url: String,
    /// The shell; the pipe to it is open as long as the program runs.
    _keeper: Child,
}

/// URL of the server, which is started first if need be.
pub(crate) fn url() -> &'static str {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    &MOTO.get_or_init(start).url
}

/// A client that goes straight to the server.
pub(crate) fn client() -> Client {
    let credentials = Credentials::new("AKIATEST", "secret", None, None, "test");
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(credentials)
        .endpoint_url(url());
    Client::from_conf(config.build())
}

fn program() -> PathBuf {
    if let Some(path) = env::var_os("ESPALIER_MOTO_SERVER") {
        return path.into();
    }
    let home = || PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache");
    let cache = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    cache.join("espalier/moto-5.2.5/bin/moto_server")
}

fn start() -> Moto {
    let program = program();
    assert!(program.is_file(), "{} is missing: run `ci/setup test`", program.display());
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER])
        .arg(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh can be started");
    let mut log = BufReader::new(keeper.stderr.take().expect("stderr is a pipe")).lines();
    let mut said = String::new();
    let url = loop {
        let line = log.next().unwrap_or_else(|| panic!("moto ended: {said}")).expect("its log is text");
        if let Some((_, url)) = line.split_once("Running on ") {
            break url.trim().to_owned();
        }
        said.push_str(&line);
    };
    // Its log of requests must be read, or it stops when the pipe is full.
    thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    Moto { url, _keeper: keeper }
}
