//! An engine inside the measuring process, whose records of opens and writes can be read by the same clock.

use std::time::{Duration, Instant};

use rocketride_ingest::sandbox::{Options, Sandbox};
use secrecy::SecretString;
use tokio::runtime::Runtime;

use super::KEY;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An engine inside.
pub struct Inside {
    /// The engine.
    pub sandbox: Sandbox,
    _runtime: Runtime,
}

impl Inside {
    /// Starts one.
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let options = Options { api_key: SecretString::from(KEY), ..Options::default() };
        let sandbox = runtime.block_on(Sandbox::start(options)).unwrap();
        Self { sandbox, _runtime: runtime }
    }

    /// Waits until this is so; false if it did not come to be within the time.
    pub fn wait(&self, limit: Duration, met: impl Fn(&Sandbox) -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < limit {
            if met(&self.sandbox) {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }
}
