//! The storm: files keep coming while the daemon is killed, the engine is killed, and sockets are cut, at random moments.
//!
//! Whoever drops the files keeps a ledger, the engine keeps another one; in the end nothing of the first may be missing
//! in the second, nothing may have arrived torn, and every repeat must have its crash.
//!
//! 25 kills by default. The long version, replayed by its seed as far as timing allows:
//! `RRI_KILLS=1000 RRI_SEED=7 cargo test --test it storm:: -- --nocapture`

mod dropper;
mod verdict;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rocketride_ingest::sandbox::{Delivery, Effect, Rule, Sandbox};

use crate::audit::{audit, found};
use crate::harness::{Host, engine_with, own_address, writers_are_seen};
use dropper::Dropper;

/// Kills of the daemon unless `RRI_KILLS` says otherwise.
const KILLS: u64 = 25;
/// How long the last run may take to bring everything home.
const HOMECOMING: Duration = Duration::from_secs(300);
/// The watches besides that of the harness, by what becomes of a delivered file.
const MORE_WATCHES: &str = "
    [[watch]]
    name = \"deleted\"\npath = \"DIR/deleted\"\npipeline = \"test\"\nsettle = \"100ms\"\non_success = \"delete\"
    [[watch]]
    name = \"moved\"\npath = \"DIR/moved\"\npipeline = \"test\"\nsettle = \"100ms\"\non_success = { move = \"done\" }
";

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} is {text:?}: {error}")))
}

/// The engines that followed each other at one address, and all that was done to them.
struct Engines {
    address: SocketAddr,
    now: Option<Sandbox>,
    /// Commits of those that are gone.
    past: Vec<Delivery>,
    delivered: Arc<AtomicU64>,
}

impl Engines {
    async fn start(&mut self) {
        let engine = engine_with(|options| options.listen = self.address).await;
        // The window in which the engine has a file, and nobody knows.
        engine.faults().add(Rule::close(Effect::Delay(Duration::from_millis(15))));
        self.now = Some(engine);
    }

    async fn kill(&mut self) {
        if let Some(engine) = self.now.take() {
            self.past.extend(engine.abort().await);
        }
    }

    /// Every commit so far.
    fn deliveries(&self) -> Vec<Delivery> {
        let present = self.now.iter().flat_map(Sandbox::deliveries);
        let all: Vec<_> = self.past.iter().cloned().chain(present).collect();
        self.delivered.store(all.len() as u64, Ordering::Relaxed);
        all
    }
}

/// Waits for a random moment of a life of `life`, in which something may happen to the engine.
async fn live(rng: &mut Rng, life: Duration, engines: &mut Engines, troubles: &mut Vec<Instant>) {
    let before = life.mul_f64(rng.f64());
    tokio::time::sleep(before).await;
    match rng.u8(0..10) {
        0..3 => {
            troubles.push(Instant::now());
            engines.now.iter().for_each(Sandbox::cut_connections);
        }
        3..5 => {
            troubles.push(Instant::now());
            engines.kill().await;
            tokio::time::sleep(Duration::from_millis(rng.u64(0..300))).await;
            engines.start().await;
        }
        _ => {}
    }
    tokio::time::sleep(life.saturating_sub(before)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_of_kills_nothing_is_lost_nothing_torn_and_every_repeat_has_its_crash() {
    let seed = number("RRI_SEED").unwrap_or_else(|| fastrand::u64(..));
    let kills = number("RRI_KILLS").unwrap_or(KILLS);
    eprintln!("storm: RRI_SEED={seed} RRI_KILLS={kills}");
    let mut rng = Rng::with_seed(seed);

    let host = Host::new();
    let watches = ["in", "deleted", "moved"];
    let inboxes: Vec<PathBuf> = watches.iter().map(|watch| host.path(watch)).collect();
    inboxes[1..].iter().for_each(|inbox| std::fs::create_dir(inbox).unwrap());
    let delivered = Arc::new(AtomicU64::new(0));
    let mut engines = Engines { address: own_address(), now: None, past: Vec::new(), delivered: delivered.clone() };
    engines.start().await;
    let more = MORE_WATCHES.replace("DIR", &host.path("").display().to_string());
    host.configure(&format!("http://{}", engines.address), &more);
    host.edit_config("settle = \"300ms\"", "settle = \"100ms\"");

    let slow_writers = writers_are_seen(&host);
    if !slow_writers {
        eprintln!("storm: the kernel does not tell of writers here; nobody writes in place");
    }
    let dropper = Dropper::new(inboxes, slow_writers, rng.u64(..));
    let stop = Arc::new(AtomicBool::new(false));
    let dropping = std::thread::spawn({
        let (stop, delivered) = (stop.clone(), delivered.clone());
        move || dropper.run(&stop, &delivered)
    });

    let mut troubles = Vec::new();
    for _ in 0..kills {
        let mut daemon = host.start();
        let life = Duration::from_millis(if rng.u8(0..4) == 0 { rng.u64(0..50) } else { rng.u64(50..2000) });
        live(&mut rng, life, &mut engines, &mut troubles).await;
        assert!(daemon.is_running(), "it ended by itself; its log:\n{}", daemon.log());
        troubles.push(Instant::now());
        daemon.kill();
        engines.deliveries();
    }
    stop.store(true, Ordering::Relaxed);
    let ledger = dropping.join().unwrap();

    let mut daemon = host.start_with(&["run", "--once"]);
    let ended = tokio::time::timeout(HOMECOMING, async {
        while daemon.is_running() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        daemon.ended().await
    });
    let ended = ended.await.unwrap_or_else(|_| panic!("it does not get done; its log:\n{}", daemon.log()));
    assert!(ended.success(), "{ended}; its log:\n{}", daemon.log());

    let deliveries = engines.deliveries();
    verdict::nothing_is_lost(&host, &watches, &ledger, &deliveries);
    verdict::nothing_is_torn(&host, &watches, &ledger, &deliveries);
    let repeats = verdict::every_repeat_has_its_trouble(&deliveries, &troubles);
    verdict::nothing_is_left_over(&host, &watches);
    let audited = audit(&host).await;
    assert_eq!((audited.differences(), found(&audited)), (0, vec![]), "the audit agrees: {audited:?}");
    eprintln!(
        "storm: {kills} kills, {} troubles in all; {} paths, {} contents; {} commits, {repeats} of them repeats",
        troubles.len(),
        ledger.len(),
        ledger.values().map(|history| history.versions.len()).sum::<usize>(),
        deliveries.len()
    );

    assert_eq!(host.output(&["run", "--once"]).0, 0);
    assert_eq!(engines.deliveries().len(), deliveries.len(), "a later run has nothing to send");
}
