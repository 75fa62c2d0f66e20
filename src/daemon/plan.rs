//! What a new configuration changes: pure, from the old and the new one.
//!
//! A part of the daemon is kept, changed, added or removed as a whole. What cannot be changed while the daemon runs is
//! named, and stays as it was; what would make it forget what was sent is refused.

use std::sync::Arc;

use crate::config::{Config, Pipeline, Watch};
use crate::show::Shown;

/// What a reload does.
#[derive(Debug, Default)]
pub struct Plan {
    /// Watches to be begun.
    pub added_watches: Vec<Arc<Watch>>,
    /// Watches that go on under another configuration.
    pub changed_watches: Vec<Arc<Watch>>,
    /// Watches to be ended; what waits in them is parked.
    pub removed_watches: Vec<Arc<Watch>>,
    /// Pipelines whose line is made anew, or for the first time.
    pub new_lines: Vec<Arc<Pipeline>>,
    /// Pipelines to be ended.
    pub removed_pipelines: Vec<Arc<Pipeline>>,
    /// In words, for the operator.
    pub changes: Vec<String>,
    /// Keys whose new value only a restart puts in force.
    pub needs_restart: Vec<&'static str>,
}

/// What the new configuration changes, or why it is refused.
pub fn plan(old: &Config, new: &Config) -> Result<Plan, String> {
    let mut plan = Plan::default();
    plan.watches(old, new)?;
    plan.pipelines(old, new);
    if old.limits != new.limits {
        plan.changes.push("limits changed".to_owned());
    }
    if old.retry != new.retry {
        plan.changes.push("retry changed".to_owned());
    }
    if old.server.drain_timeout != new.server.drain_timeout {
        plan.changes.push("server.drain_timeout changed".to_owned());
    }
    if old.state.finished_retention != new.state.finished_retention {
        plan.changes.push("state.finished_retention changed".to_owned());
    }
    if old.state.min_free != new.state.min_free {
        plan.changes.push("state.min_free changed".to_owned());
    }
    if old.log.level != new.log.level {
        plan.changes.push("log.level changed".to_owned());
    }
    for (key, same) in [
        ("server.instance", old.server.instance == new.server.instance),
        ("state.directory", old.state.directory == new.state.directory),
        ("state.max_spool", old.state.max_spool == new.state.max_spool),
        ("admin", old.admin == new.admin),
        ("log.format", old.log.format == new.log.format),
    ] {
        if !same {
            plan.needs_restart.push(key);
        }
    }
    Ok(plan)
}

/// What only a restart puts in force stays as it was, whatever the new file says.
pub fn keep_what_needs_a_restart(old: &Config, new: &mut Config) {
    new.server.instance.clone_from(&old.server.instance);
    new.state.directory.clone_from(&old.state.directory);
    new.state.max_spool = old.state.max_spool;
    new.admin = old.admin.clone();
    new.log.format = old.log.format;
}

impl Plan {
    fn watches(&mut self, old: &Config, new: &Config) -> Result<(), String> {
        for watch in &new.watches {
            let name = &watch.name;
            match old.watches.iter().find(|known| known.name == *name) {
                Some(known) if known.path != watch.path => {
                    return Err(format!(
                        "watch {name:?} moved from {} to {}: what was sent from the one says nothing of the other. Give \
                         the new folder a watch of another name, or stop the daemon to change it",
                        Shown(&known.path),
                        Shown(&watch.path)
                    ));
                }
                Some(known) if known == watch => {}
                Some(known) => {
                    self.changes.push(format!("watch {name} changed"));
                    for target in known.targets().filter(|target| target.starts_with(&known.path)) {
                        if !watch.targets().any(|kept| kept == target) {
                            self.changes.push(format!(
                                "watch {name}: what was moved to {} counts as dropped from now on; exclude it if it must not",
                                Shown(target)
                            ));
                        }
                    }
                    if known.results.directory != watch.results.directory {
                        let to = match &watch.results.directory {
                            Some(directory) => format!("to {}", Shown(directory)),
                            None => "beside their inputs".to_owned(),
                        };
                        self.changes.push(format!(
                            "watch {name}: results go {to} from now on; earlier ones stay where they are, and nothing is \
                             sent again for it"
                        ));
                    }
                    self.changed_watches.push(watch.clone());
                }
                None => {
                    let renamed = old.watches.iter().find(|known| known.path == watch.path);
                    if let Some(known) = renamed {
                        return Err(format!(
                            "watch {:?} is named {name:?} now: under another name everything in {} would be sent again. \
                             Keep the name, or stop the daemon to change it",
                            known.name,
                            Shown(&watch.path)
                        ));
                    }
                    self.changes.push(format!("watch {name} added"));
                    self.added_watches.push(watch.clone());
                }
            }
        }
        for watch in &old.watches {
            if !new.watches.iter().any(|kept| kept.name == watch.name) {
                self.changes.push(format!("watch {} removed; what waits in it is parked", watch.name));
                self.removed_watches.push(watch.clone());
            }
        }
        Ok(())
    }

    fn pipelines(&mut self, old: &Config, new: &Config) {
        // Every line has these.
        let same_ways = old.server.is_same_way(&new.server) && old.retry.max == new.retry.max;
        for pipeline in &new.pipelines {
            let name = &pipeline.name;
            match old.pipeline(name) {
                None => {
                    self.changes.push(format!("pipeline {name} added"));
                    self.new_lines.push(pipeline.clone());
                }
                Some(known) if known.is_same_line(pipeline) && same_ways => {
                    if known.limits != pipeline.limits {
                        self.changes.push(format!("pipeline {name}: limits changed"));
                    }
                }
                Some(_) => {
                    self.changes.push(format!("pipeline {name} changed"));
                    self.new_lines.push(pipeline.clone());
                }
            }
        }
        for pipeline in &old.pipelines {
            if new.pipeline(&pipeline.name).is_none() {
                self.changes.push(format!("pipeline {} removed; its task is left to its server", pipeline.name));
                self.removed_pipelines.push(pipeline.clone());
            }
        }
    }
}

#[cfg(test)]
mod every_key;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    const TEXT: &str = r#"
[server]
uri = "http://127.0.0.1"
api_key_file = "key"
[pipelines.a]
file = "a.pipe"
[pipelines.b]
file = "b.pipe"
[[watch]]
name = "one"
path = "/in/one"
pipeline = "a"
[[watch]]
name = "two"
path = "/in/two"
pipeline = "b"
include = ["*.pdf"]
"#;

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("/etc/x/config.toml"), &Environment::default()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The changes in words, and what needs a restart.
    fn changes(from: &str, to: &str) -> (Vec<String>, Vec<&'static str>) {
        assert!(TEXT.contains(from), "{from}");
        let plan = plan(&parse(TEXT), &parse(&TEXT.replace(from, to))).unwrap();
        (plan.changes, plan.needs_restart)
    }

    fn refusal(from: &str, to: &str) -> String {
        plan(&parse(TEXT), &parse(&TEXT.replace(from, to))).unwrap_err()
    }

    #[test]
    fn the_same_text_changes_nothing() {
        let plan = plan(&parse(TEXT), &parse(TEXT)).unwrap();
        assert!(plan.changes.is_empty() && plan.needs_restart.is_empty(), "{plan:?}");
        assert!(plan.new_lines.is_empty() && plan.changed_watches.is_empty());
    }

    #[test]
    fn only_what_changed_is_touched() {
        for (from, to, expected) in [
            ("*.pdf", "*.txt", "watch two changed"),
            ("a.pipe", "c.pipe", "pipeline a changed"),
            (
                "[pipelines.b]",
                "[pipelines.a.limits]\nfiles_per_second = 3\n[pipelines.b]",
                "pipeline a: limits changed",
            ),
            ("[server]", "[limits]\nbytes_per_second = \"1MiB\"\n[server]", "limits changed"),
            ("[server]", "[retry]\nattempts = 9\n[server]", "retry changed"),
        ] {
            assert_eq!(changes(from, to), (vec![expected.to_owned()], vec![]));
        }
    }

    #[test]
    fn what_every_line_uses_makes_every_line_anew() {
        let (changes, _) = changes("[server]", "[server]\nrequest_timeout = \"7s\"");
        assert_eq!(changes, ["pipeline a changed", "pipeline b changed"]);
    }

    #[test]
    fn watches_and_pipelines_come_and_go() {
        let added = "[[watch]]\nname = \"three\"\npath = \"/in/three\"\npipeline = \"a\"\n[[watch]]\nname = \"one\"";
        assert_eq!(changes("[[watch]]\nname = \"one\"", added).0, ["watch three added"]);
        let removed = changes("[[watch]]\nname = \"one\"\npath = \"/in/one\"\npipeline = \"a\"\n", "").0;
        assert_eq!(removed, ["watch one removed; what waits in it is parked"]);
    }

    #[test]
    fn what_would_make_it_forget_is_refused_with_advice() {
        assert!(refusal("/in/one", "/in/other").contains("moved from /in/one to /in/other"));
        assert!(refusal("\"one\"", "\"eins\"").contains("sent again"));
    }

    #[test]
    fn a_target_that_is_none_any_more_is_pointed_out() {
        let moving = TEXT.replace("pipeline = \"a\"", "pipeline = \"a\"\non_success = { move = \"done\" }");
        let plan = plan(&parse(&moving), &parse(TEXT)).unwrap();
        assert!(plan.changes.iter().any(|change| change.contains("/in/one/done")), "{:?}", plan.changes);
    }

    #[test]
    fn another_place_for_results_is_said_to_be_for_new_ones() {
        let apart = TEXT.replace("pipeline = \"a\"", "pipeline = \"a\"\n[watch.results]\ndirectory = \"/out\"");
        for (old, new, to) in [(TEXT, apart.as_str(), "to /out from now on"), (&apart, TEXT, "beside their inputs")] {
            let plan = plan(&parse(old), &parse(new)).unwrap();
            assert!(plan.changes.iter().any(|change| change.contains(to)), "{:?}", plan.changes);
            assert_eq!((plan.changed_watches.len(), plan.new_lines.len()), (1, 0));
        }
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_was_and_is_named_each_time() {
        let old = parse(TEXT);
        let mut new = parse(&TEXT.replace("[server]", "[state]\ndirectory = \"/s\"\nmin_free = \"3MiB\"\n[server]"));
        keep_what_needs_a_restart(&old, &mut new);
        assert_eq!((&new.state.directory, new.state.min_free), (&old.state.directory, 3 << 20));
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let (_, restart) = changes("[server]", "[state]\ndirectory = \"/s\"\n[log]\nformat = \"json\"\n[server]");
        assert_eq!(restart, ["state.directory", "log.format"]);
    }
}
