//! Trouble on demand: rules that make chosen requests fail in chosen ways, switchable while the engine runs.
//!
//! It decides which effect a request meets and how often; it must not know how an effect is carried out.

use crate::locks::lock;
use std::sync::Mutex;
use std::time::Duration;

/// Most rules at one time; more are ignored. Every request is compared with all of them.
pub const MAX_RULES: usize = 1_000;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Not processed; `success:false` with this message (may be empty) and code.
    Refuse {
        /// The server's words.
        message: String,
        /// The machine-readable cause that newer servers add.
        code: Option<String>,
    },
    /// A failure inside the task: `success:true` without a body. A masked open takes no slot, a masked write is lost, a
    /// masked close drops the object and frees the slot.
    Mask,
    /// Not processed, never answered.
    Hang,
    /// Processed this much later. Other rules still apply.
    Delay(Duration),
    /// As [`Effect::Delay`], by the size of the payload.
    Slow {
        /// Bytes per second; 0 counts as 1.
        bytes_per_second: u64,
    },
    /// The socket is cut; the request is not processed.
    CutBefore,
    /// Processed (a close commits), then the socket is cut: the reply is lost.
    CutAfter,
    /// A node fails: a close is answered with `success:true` and this `error` in its body. On other requests as [`Effect::Mask`].
    NodeError {
        /// The node's words.
        message: String,
    },
    /// A close is answered with somebody else's `objectId`.
    WrongObjectId,
    /// The task dies over a data request, with every pipe it has: nothing in flight is ever answered. Other requests are
    /// processed.
    KillTask,
    /// The connection is closed with this `WebSocket` code; the request is not processed.
    Close {
        /// For example 1009, 1011 or 1012.
        code: u16,
        /// May be empty.
        reason: String,
    },
}

/// When an effect applies.
#[derive(Debug, Clone)]
pub struct Rule {
    command: Option<String>,
    subcommand: Option<String>,
    object: Option<String>,
    skip: u64,
    times: Option<u64>,
    effect: Effect,
}

impl Rule {
    /// Every request meets this effect, for ever, until narrowed.
    pub fn new(effect: Effect) -> Self {
        Self { command: None, subcommand: None, object: None, skip: 0, times: None, effect }
    }

    /// Only requests of this command.
    pub fn command(command: &str, effect: Effect) -> Self {
        Self { command: Some(command.to_owned()), ..Self::new(effect) }
    }

    /// Only `rrext_process` requests of this subcommand.
    pub fn process(subcommand: &str, effect: Effect) -> Self {
        Self { subcommand: Some(subcommand.to_owned()), ..Self::command("rrext_process", effect) }
    }

    /// Only opens.
    pub fn open(effect: Effect) -> Self {
        Self::process("open", effect)
    }

    /// Only writes.
    pub fn write(effect: Effect) -> Self {
        Self::process("write", effect)
    }

    /// Only closes.
    pub fn close(effect: Effect) -> Self {
        Self::process("close", effect)
    }

    /// Only requests about objects of this name; `*` stands for any text.
    #[must_use]
    pub fn object(mut self, pattern: &str) -> Self {
        self.object = Some(pattern.to_owned());
        self
    }

    /// Lets the first `count` matching requests pass.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Wears out after `count` requests.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }

    fn matches(&self, request: &Matched<'_>) -> bool {
        self.command.as_deref().is_none_or(|command| command == request.command)
            && self.subcommand.as_deref().is_none_or(|subcommand| Some(subcommand) == request.subcommand)
            && self.object.as_deref().is_none_or(|pattern| request.object.is_some_and(|name| wildcard(pattern, name)))
    }
}

/// Names a rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(u64);

/// The rules of one engine.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    rules: Vec<Active>,
}

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    seen: u64,
    hits: u64,
}

/// What the rules look at.
pub(super) struct Matched<'a> {
    pub(super) command: &'a str,
    pub(super) subcommand: Option<&'a str>,
    pub(super) object: Option<&'a str>,
    pub(super) payload: usize,
}

/// What the rules decided: wait first, then the effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) effect: Option<Effect>,
}

impl Faults {
    /// From now on. Earlier rules win; delays add up.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = self.lock();
        let id = RuleId(state.next);
        state.next += 1;
        if state.rules.len() < MAX_RULES {
            state.rules.push(Active { id, rule, seen: 0, hits: 0 });
        }
        id
    }

    /// Takes one rule away.
    pub fn remove(&self, id: RuleId) {
        self.lock().rules.retain(|active| active.id != id);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How many requests met this rule; 0 for a rule that was removed.
    pub fn hits(&self, id: RuleId) -> u64 {
        self.lock().rules.iter().find(|active| active.id == id).map_or(0, |active| active.hits)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().rules.is_empty()
    }

    pub(super) fn judge(&self, request: &Matched<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        for active in &mut self.lock().rules {
            if !active.rule.matches(request) {
                continue;
            }
            active.seen += 1;
            if active.seen <= active.rule.skip || active.rule.times.is_some_and(|times| active.hits >= times) {
                continue;
            }
            active.hits += 1;
            match &active.rule.effect {
                Effect::Delay(delay) => verdict.delay += *delay,
                Effect::Slow { bytes_per_second } => {
                    let micros = (request.payload as u64).saturating_mul(1_000_000) / (*bytes_per_second).max(1);
                    verdict.delay += Duration::from_micros(micros);
                }
                effect => {
                    verdict.effect = Some(effect.clone());
                    break;
                }
            }
        }
        verdict
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Whether `text` is of the form `pattern`, where `*` stands for any text.
fn wildcard(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(found) = text.find(part) else { return false };
        text = &text[found + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(object: &str) -> Matched<'_> {
        Matched { command: "rrext_process", subcommand: Some("open"), object: Some(object), payload: 500 }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("a.txt", "a.txt", true),
            ("a.txt", "b.txt", false),
            ("*.txt", "a.txt", true),
            ("a*", "a", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_lets_some_pass_and_then_wears_out() {
        let faults = Faults::default();
        let id = faults.add(Rule::open(Effect::Mask).object("bad*").after(1).times(2));
        let effects: Vec<bool> = (0..5).map(|_| faults.judge(&open("bad.txt")).effect.is_some()).collect();
        assert_eq!(effects, [false, true, true, false, false]);
        assert_eq!(faults.judge(&open("good.txt")), Verdict::default());
        assert_eq!(faults.hits(id), 2);
    }

    #[test]
    fn delays_add_up_and_the_first_effect_wins() {
        let faults = Faults::default();
        faults.add(Rule::new(Effect::Delay(Duration::from_secs(1))));
        faults.add(Rule::new(Effect::Slow { bytes_per_second: 1_000 }));
        faults.add(Rule::open(Effect::Hang));
        faults.add(Rule::open(Effect::Mask));
        let verdict = faults.judge(&open("x"));
        assert_eq!(verdict, Verdict { delay: Duration::from_millis(1_500), effect: Some(Effect::Hang) });
    }
}
