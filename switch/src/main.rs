//! `espalier-switch`: settings, logging, signals, and the life of the process.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::Parser as _;
use espalier_api::InputError;
use espalier_api::settings::{Listen, SettingsError, start_log};
use espalier_switch::config::Config;
use espalier_switch::manager::{Manager, ManagerError};
use espalier_switch::metrics::{self, Metrics};
use espalier_switch::replay::{ReplayArgs, ReplayError};
use espalier_switch::watchdog::{self, WorkerDied};
use espalier_switch::{control, watch};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == "replay") {
        return replay();
    }
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
        Err(error) => complain(&format!("{error:#}"), exit_code(&error)),
    }
}

/// `espalier-switch replay`: no switch, but what one would decide.
fn replay() -> ExitCode {
    // The word is part of the program's name for the rest.
    let args = ReplayArgs::parse_from(std::env::args_os().skip(1));
    match espalier_switch::replay::run(&args, &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(ReplayError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error, BAD_INPUT),
    }
}

/// 2 where the input is at fault, 70 where a worker has died, 1 where the machine is at fault.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<WorkerDied>() {
        return watchdog::EXIT_DEAD;
    }
    let refused = matches!(error.downcast_ref(), Some(ManagerError::Refused(_)));
    if refused || error.is::<InputError>() { BAD_INPUT } else { 1 }
}

#[expect(clippy::print_stderr, reason = "the last words of a process that ends")]
fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

fn run(config: Config) -> anyhow::Result<()> {
    if config.unpin {
        espalier_xsk::Steering::remove_pins(&config.pin_dir).context("removing the pinned steering")?;
        espalier_switch::tuning::undo(config.tuning_record());
        return Ok(());
    }
    let snapshot = config.snapshot.as_deref().map(espalier_api::file::load).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let manager = runtime.block_on(serve(config, snapshot))?;
    // Waits for who has the manager still: a look at the interfaces, a request whose client has left.
    drop(runtime);
    let manager = Arc::into_inner(manager).context("the manager is still in use")?;
    manager.into_inner().map_err(|_| anyhow::anyhow!("the manager is in an unknown state"))?.stop();
    Ok(())
}

/// Serves until the process is asked to end.
async fn serve(config: Config, snapshot: Option<espalier_api::Snapshot>) -> anyhow::Result<control::Shared> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let socket = config.socket.clone();
    let group = config.socket_group.clone();
    let (listener, file) = espalier_api::socket::bind(&socket, group.as_deref(), "espalier-switch")?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let metrics_tcp = bind_metrics(config.metrics_listen).await?;
    let metrics_rules = config.metrics_rules as usize;
    let mut manager = Manager::start(config)?;
    let vitals = manager.vitals();
    if let Some(snapshot) = snapshot {
        manager.apply(snapshot)?;
    }
    let manager = Arc::new(Mutex::new(manager));
    tracing::info!(socket = %socket.display(), "listening");
    tokio::spawn(watch::watch(Arc::clone(&manager)));
    let metrics = Arc::new(Metrics::new(Arc::downgrade(&manager), metrics_rules));
    if let Some(tcp) = metrics_tcp {
        tokio::spawn(metrics::serve(tcp, Arc::clone(&metrics)));
    }
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; branch traffic is dropped until a switch runs again");
    };
    tokio::select! {
        served = control::serve(listener, Arc::clone(&manager), metrics, group.is_some(), stopped) => served?,
        died = watchdog::watch(vitals) => return Err(died.into()),
    }
    drop(file);
    Ok(manager)
}

/// The port for metrics, where one is asked for.
async fn bind_metrics(listen: Listen) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = listen.0 else { return Ok(None) };
    let refuse = |error: std::io::Error| {
        InputError::new("metrics-listen", format!("{address} cannot be listened on: {error}"))
    };
    let tcp = TcpListener::bind(address).await.map_err(refuse)?;
    tracing::info!(address = %tcp.local_addr()?, "metrics are served");
    Ok(Some(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_input_is_told_from_a_failing_machine() {
        let refused = || InputError::new("max-flows", "needs more memory than there is");
        assert_eq!(exit_code(&refused().into()), 2);
        assert_eq!(exit_code(&ManagerError::Refused(refused()).into()), 2);
        assert_eq!(exit_code(&WorkerDied(0).into()), 70);
        assert_eq!(exit_code(&ManagerError::Failed("no memory".to_owned()).into()), 1);
    }
}
