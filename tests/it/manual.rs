//! Completions and manual pages: each command is in them, and the programs that read them take them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::Host;
use crate::mount::skipped;

/// The commands that the program names in its help, its own `help` aside.
fn commands(host: &Host) -> BTreeSet<String> {
    let (code, help, error) = host.output(&["--help"]);
    assert_eq!(code, 0, "{error}");
    let listed = help.split_once("Commands:").unwrap().1.split_once("Options:").unwrap().0;
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: BTreeSet<_> = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains("run") && names.contains("man"), "{names:?}");
    names.into_iter().filter(|name| name != "help").collect()
}

/// Runs a tool that a host may lack; `None`, said aloud, where it does.
fn tool(program: &str, args: &[&str], stdin: Stdio) -> Option<Output> {
    match Command::new(program).args(args).stdin(stdin).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(&format!("cannot run {program}: {error}"));
            None
        }
    }
}

/// What a formatter of manual pages complains of.
fn complaints(page: &Path) -> Option<String> {
    let output = tool("groff", &["-man", "-ww", "-Tutf8", "-z", page.to_str().unwrap()], Stdio::null())?;
    assert!(output.status.success());
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_command_has_a_manual_page_that_the_formatter_takes() {
    let host = Host::new();
    std::fs::create_dir(host.path("man")).unwrap();
    let (code, _, error) = host.output(&["man", "--dir", host.path("man").to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    let program = std::fs::read_to_string(host.path("man/rocketride-ingest.1")).unwrap();
    for command in commands(&host) {
        let page = host.path(format!("man/rocketride-ingest-{command}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(program.contains(&format!("rocketride\\-ingest\\-{command}(1)")), "{command} is not in:\n{program}");
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"), "{text}");
        // Nested commands have pages of their own, so the folder says what there is.
        let (code, printed, error) = host.output(&["man", &command]);
        assert_eq!((code, printed), (0, text), "{error}");
    }
    for entry in std::fs::read_dir(host.path("man")).unwrap() {
        let page = entry.unwrap().path();
        let Some(complaints) = complaints(&page) else { return };
        assert_eq!(complaints, "", "{}", page.display());
    }
}

#[test]
fn the_page_of_an_unknown_command_is_a_usage_error_that_names_the_known_ones() {
    let host = Host::new();
    let (code, out, error) = host.output(&["man", "frobnicate"]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(error.contains("frobnicate") && error.contains("demo"), "{error}");
    let (code, _, error) = host.output(&["man", "--dir", host.path("none").to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(error.contains("none"), "{error}");
}

#[test]
fn bash_takes_its_completions_and_completes_every_command() {
    let host = Host::new();
    let (code, script, error) = host.output(&["completions", "bash"]);
    assert_eq!(code, 0, "{error}");
    let script = host.write("completions", script);
    let program = r#"set -eu; . "$1"; COMP_WORDS=(rocketride-ingest ""); COMP_CWORD=1
        function=$(complete -p rocketride-ingest | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" rocketride-ingest "" rocketride-ingest; printf '%s\n' "${COMPREPLY[@]}""#;
    let Some(output) = tool("bash", &["-c", program, "bash", script.to_str().unwrap()], Stdio::null()) else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{error}");
    let completed: BTreeSet<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let missing: Vec<_> = commands(&host).difference(&completed).cloned().collect();
    assert!(missing.is_empty() && completed.contains("--config"), "{missing:?} not in {completed:?}");
}

#[test]
fn every_shell_has_completions_that_name_every_command() {
    let host = Host::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, error) = host.output(&["completions", shell]);
        assert_eq!(code, 0, "{error}");
        for command in commands(&host) {
            assert!(script.contains(&command), "{command} is not in those of {shell}");
        }
    }
    assert_eq!(host.output(&["completions", "tcsh"]).0, 64);
}
