//! `espalier-agent`: settings, logging, signals, and the life of the process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use espalier_api::InputError;
use espalier_api::settings::{SettingsError, start_log};
use espalier_control::agent::{self, Agent};
use espalier_control::cluster::ClusterSource;
use espalier_control::config::{Config, Source, Switch};
use espalier_control::ec2::Ec2;
use espalier_control::facts::FactsSource;
use espalier_control::file::{Ec2Files, KubernetesFiles};
use espalier_control::kube::{self, KubeSource, PodEvents};
use espalier_control::metrics::Metrics;
use espalier_control::places::Lookout;
use espalier_control::serve::{self, Shown};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(SettingsError::Args(error)) => error.exit(),
        Err(SettingsError::File(error)) => return complain(&error, BAD_INPUT),
    };
    if let Err(error) = start_log(&config.log) {
        return complain(&error, BAD_INPUT);
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{error:#}"), if error.is::<InputError>() { BAD_INPUT } else { 1 }),
    }
}

#[expect(clippy::print_stderr, reason = "the last words of a process that ends")]
fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

fn run(config: Config) -> anyhow::Result<()> {
    // One thread does: the agent waits most of the time, and what computes is short.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (socket, _file) =
        espalier_api::socket::bind(&config.socket, config.socket_group.as_deref(), "espalier-agent")?;
    let socket = UnixListener::from_std(socket)?;
    let tcp = match config.listen.0 {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|error| InputError::new("listen", format!("{address}: {error}")))?,
        ),
        None => None,
    };
    let metrics = Arc::new(Metrics::default());
    let agent = agent(&config).await?;
    let view = agent::start(agent, Arc::clone(&metrics));
    tracing::info!(socket = %config.socket.display(), node = config.node(), "started");
    let shown = Shown { view, metrics, started: Instant::now() };
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; what the switch enforces stays in force");
    };
    Ok(serve::serve(socket, tcp, shown, stopped).await?)
}

/// The agent as it is set.
async fn agent(config: &Config) -> anyhow::Result<Agent> {
    let node = config.node();
    let mut events = None;
    let cluster: Box<dyn ClusterSource + Send> = match &config.kubernetes {
        Source::Api => {
            let (client, place) =
                kube::client().await.map_err(|error| InputError::new("kubernetes", error.to_string()))?;
            if config.events == Switch::On {
                events = Some(PodEvents::start(client.clone(), node.clone()));
            }
            Box::new(KubeSource::new(client, &node, place))
        }
        Source::Folder(folder) => Box::new(KubernetesFiles::new(folder, &node)),
    };
    let facts: Box<dyn FactsSource + Send> = match &config.ec2 {
        Source::Api => Box::new(Ec2::new(config.ec2_settings())),
        Source::Folder(folder) => Box::new(Ec2Files::new(folder)),
    };
    Ok(Agent {
        name: node,
        rules: config.rules(),
        cluster,
        facts,
        lookout: Lookout::new(config.trunk.clone(), config.pod_ports.clone()),
        events,
        switch_socket: config.switch_socket.clone(),
    })
}
