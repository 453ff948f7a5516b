//! Folders of files in place of the APIs: Kubernetes YAML as a [`ClusterSource`], EC2 JSON as a [`FactsSource`].
//!
//! For laptops, CI and air-gapped sites: everything behind the sources is the same. A folder is read whole at each
//! change; a file that cannot be read is named, and its last good contents stay, as an API's last answer would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use espalier_api::agent::{Problem, ProblemReason};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cluster::{Cluster, ClusterSource};
use crate::facts::{Facts, FactsSource, Wanted};

mod ec2;
mod kubernetes;

/// Files are written in several steps: the folder is read when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(20);

/// The folder is read this often even if the kernel says nothing, for file systems that do not say.
const AGAIN: Duration = Duration::from_secs(30);

/// Kubernetes YAML in a folder.
pub struct KubernetesFiles {
    folder: PathBuf,
    node: String,
}

impl KubernetesFiles {
    /// The pods of `node`, and those that are on no node.
    pub fn new(folder: impl Into<PathBuf>, node: impl Into<String>) -> Self {
        Self { folder: folder.into(), node: node.into() }
    }
}

impl ClusterSource for KubernetesFiles {
    fn name(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn start(self: Box<Self>) -> watch::Receiver<Arc<Cluster>> {
        let (sender, receiver) = watch::channel(Arc::new(Cluster::default()));
        let mut folder = Folder::new(&self.folder, &["yaml", "yml", "json"]);
        tokio::spawn(async move {
            loop {
                let read = folder.read(kubernetes::objects);
                let mut cluster = kubernetes::cluster(read.good, &self.node);
                cluster.problems = read.problems;
                sender.send_if_modified(|last| {
                    let learnt = last.learnt;
                    let changed = Cluster { learnt, ..cluster.clone() } != **last;
                    if changed {
                        *last = Arc::new(Cluster { learnt: Some(read.at), ..cluster });
                    }
                    changed
                });
                tokio::select! {
                    () = folder.changed() => {}
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}

/// EC2 JSON in a folder.
pub struct Ec2Files {
    folder: PathBuf,
}

impl Ec2Files {
    /// What the AWS CLI printed into the files of `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl FactsSource for Ec2Files {
    fn name(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn start(self: Box<Self>, mut wanted: watch::Receiver<Arc<Wanted>>) -> watch::Receiver<Arc<Facts>> {
        let (sender, receiver) = watch::channel(Arc::new(Facts::default()));
        let mut folder = Folder::new(&self.folder, &["json"]);
        tokio::spawn(async move {
            let mut read = folder.read(ec2::document);
            loop {
                let wish = Arc::clone(&wanted.borrow_and_update());
                let mut facts = ec2::facts(&read.good, &wish);
                facts.problems.append(&mut read.problems.clone());
                facts.as_of = Some(SystemTime::now());
                sender.send_modify(|last| {
                    let (learnt, as_of) = (last.learnt, last.as_of);
                    let changed = Facts { learnt, as_of, ..facts.clone() } != **last;
                    facts.learnt = if changed { Some(read.at) } else { learnt };
                    *last = Arc::new(facts);
                });
                tokio::select! {
                    () = folder.changed() => read = folder.read(ec2::document),
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}

/// A folder that is watched, and the last good contents of its files.
struct Folder<T> {
    path: PathBuf,
    endings: &'static [&'static str],
    good: BTreeMap<PathBuf, Arc<T>>,
    events: mpsc::UnboundedReceiver<()>,
    // Tells of changes as long as it lives.
    _watcher: Option<notify::RecommendedWatcher>,
}

/// What a folder holds.
struct Read<T> {
    good: BTreeMap<PathBuf, Arc<T>>,
    problems: Vec<Problem>,
    at: Instant,
}

impl<T> Folder<T> {
    fn new(path: &Path, endings: &'static [&'static str]) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let told = move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and would never end.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _no_longer_watched = sender.send(());
            }
        };
        let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(path, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(folder = %path.display(), %error, "cannot be watched: it is read every {} s", AGAIN.as_secs());
        }
        Self { path: path.to_owned(), endings, good: BTreeMap::new(), events, _watcher: watcher.ok() }
    }

    /// Waits for a change, and until it is over.
    async fn changed(&mut self) {
        let _either = timeout(AGAIN, self.events.recv()).await;
        while timeout(QUIET, self.events.recv()).await.is_ok_and(|event| event.is_some()) {}
    }

    /// Reads every file. `parse` gets a file's path and bytes.
    fn read(&mut self, parse: fn(&Path, &[u8]) -> Result<T, String>) -> Read<T> {
        let at = Instant::now();
        let mut problems = Vec::new();
        let mut files = Vec::new();
        if let Err(error) = self.list(&self.path, &mut files) {
            problems
                .push(problem(&self.path, format!("cannot be listed: {error}; what was read before stays")));
            return Read { good: self.good.clone(), problems, at };
        }
        self.good.retain(|path, _| files.contains(path));
        for path in files {
            let bytes = espalier_api::file::read(&path).map_err(|error| error.message);
            match bytes.and_then(|bytes| parse(&path, &bytes)) {
                Ok(contents) => {
                    self.good.insert(path, Arc::new(contents));
                }
                Err(error) => {
                    problems.push(problem(&path, format!("{error}; its last good contents stay in force")))
                }
            }
        }
        Read { good: self.good.clone(), problems, at }
    }

    fn list(&self, folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        for path in entries {
            // What begins with a dot is being written, by an editor or as a ConfigMap's next version.
            if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                self.list(&path, files)?;
            } else if path.extension().is_some_and(|ending| self.endings.iter().any(|known| ending == *known))
            {
                files.push(path);
            }
        }
        Ok(())
    }
}

fn problem(path: &Path, message: String) -> Problem {
    Problem::new(ProblemReason::FileInvalid, path.display(), message)
}
