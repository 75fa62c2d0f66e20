//! The files for systemd: its own tools take them, and the unit stays as closed as it was made.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::Host;
use crate::mount::skipped;

/// The most that `systemd-analyze security` may give, of 10.
const MOST_EXPOSED: f64 = 1.8;
/// Where the template unit differs from the other one: what stands there, and what here.
const PER_INSTANCE: [(&str, &str); 7] = [
    ("Description=RocketRide file ingestion\n", "Description=RocketRide file ingestion (%i)\n"),
    (
        "ConditionPathExists=/etc/rocketride-ingest/config.toml\n",
        "ConditionPathExists=/etc/rocketride-ingest/%i.toml\n",
    ),
    ("_CONFIG=/etc/rocketride-ingest/config.toml\n", "_CONFIG=/etc/rocketride-ingest/%i.toml\n"),
    ("StateDirectory=rocketride-ingest\n", "StateDirectory=rocketride-ingest/%i\n"),
    ("RuntimeDirectory=rocketride-ingest\n", "RuntimeDirectory=rocketride-ingest/%i\n"),
    ("RuntimeDirectoryPreserve=yes\n", ""),
    ("api-key:/etc/rocketride-ingest/api-key\n", "api-key:/etc/rocketride-ingest/%i.api-key\n"),
];

fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The settings of a unit, without comments and blank lines.
fn settings(unit: &str) -> String {
    unit.split_inclusive('\n').filter(|line| *line != "\n" && !line.starts_with('#')).collect()
}

/// Both units on this host, with the program where it was built instead of where it is installed.
fn units(host: &Host) -> [PathBuf; 2] {
    let program = env!("CARGO_BIN_EXE_rocketride-ingest");
    // The template is verified as one of its instances.
    [
        ("rocketride-ingest.service", "rocketride-ingest.service"),
        ("rocketride-ingest@.service", "rocketride-ingest@a.service"),
    ]
    .map(|(name, as_name)| {
        let unit = source(name);
        assert!(unit.contains("\nExecStart=rocketride-ingest run\n"), "{unit}");
        assert!(unit.contains("\nExecReload=rocketride-ingest reload\n"), "{unit}");
        host.write(as_name, unit.replace("=rocketride-ingest r", &format!("={program} r")))
    })
}

/// Runs a tool of systemd; `None`, said aloud, on a host without it.
fn tool(program: &str, args: &[&str]) -> Option<Output> {
    match Command::new(program).args(args).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => Some(output),
        Err(error) => {
            skipped(&format!("cannot run {program}: {error}"));
            None
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let host = Host::new();
    for unit in units(&host) {
        let Some(output) = tool("systemd-analyze", &["verify", unit.to_str().unwrap()]) else { return };
        assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    }
}

#[test]
fn the_units_stay_closed() {
    let host = Host::new();
    for unit in units(&host) {
        let args = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
        let Some(output) = tool("systemd-analyze", &args) else { return };
        let said = said(&output);
        let overall =
            said.lines().find_map(|line| line.split_once("Overall exposure level for ")).unwrap_or_else(|| {
                panic!("{said}");
            });
        let level = overall.1.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap();
        assert!(level.parse::<f64>().unwrap() <= MOST_EXPOSED, "{said}");
    }
}

#[test]
fn an_instance_differs_from_the_plain_unit_in_its_paths_alone() {
    let mut expected = settings(&source("rocketride-ingest.service"));
    for (there, here) in PER_INSTANCE {
        assert_eq!(expected.matches(there).count(), 1, "{there:?} in:\n{expected}");
        expected = expected.replace(there, here);
    }
    assert_eq!(settings(&source("rocketride-ingest@.service")), expected);
}

#[test]
fn a_wrong_command_line_or_configuration_is_not_tried_again_and_no_key_is_in_the_unit() {
    let unit = settings(&source("rocketride-ingest.service"));
    for line in [
        "Type=notify",
        "Restart=always",
        "RestartSec=5",
        "StartLimitIntervalSec=0",
        "RestartPreventExitStatus=64 78",
        "LogRateLimitIntervalSec=0",
        "UMask=0027",
        "User=rocketride-ingest",
        "AmbientCapabilities=CAP_LEASE",
        "LoadCredential=api-key:/etc/rocketride-ingest/api-key",
    ] {
        assert!(unit.lines().any(|there| there == line), "{line} is not in:\n{unit}");
    }
    for taken in ["DynamicUser", "PrivateUsers", "ExecStartPre", "APIKEY"] {
        assert!(!unit.contains(taken), "{taken} is in:\n{unit}");
    }
}

#[test]
fn the_user_and_the_folders_are_made_as_the_unit_expects_them() {
    let host = Host::new();
    let root = host.path("root");
    for (kind, name) in [("sysusers.d", "sysusers.conf"), ("tmpfiles.d", "tmpfiles.conf")] {
        host.write(format!("root/usr/lib/{kind}/rocketride-ingest.conf"), source(name));
    }
    host.write("root/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
    host.write("root/etc/group", "root:x:0:\n");
    let at_root = format!("--root={}", root.display());
    let Some(output) = tool("systemd-sysusers", &[&at_root, "rocketride-ingest.conf"]) else { return };
    assert!(output.status.success(), "{}", said(&output));
    let users = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
    let user = users.lines().find(|line| line.starts_with("rocketride-ingest:")).unwrap_or_else(|| panic!("{users}"));
    assert!(user.ends_with(":/var/lib/rocketride-ingest:/usr/sbin/nologin"), "{user}");

    if !crate::harness::is_root() {
        return skipped("only root can give folders to the user");
    }
    let Some(output) = tool("systemd-tmpfiles", &[&at_root, "--create", "rocketride-ingest.conf"]) else { return };
    assert!(output.status.success(), "{}", said(&output));
    let state = std::fs::metadata(root.join("var/lib/rocketride-ingest")).unwrap();
    let config = std::fs::metadata(root.join("etc/rocketride-ingest")).unwrap();
    assert_eq!(Some(state.uid().to_string().as_str()), user.split(':').nth(2));
    assert_eq!((state.mode() & 0o7777, config.mode() & 0o7777, config.uid()), (0o700, 0o755, 0));
}

#[test]
fn the_limits_name_keys_of_the_kernel() {
    for line in settings(&source("sysctl.conf")).lines() {
        let (key, value) = line.split_once(" = ").unwrap();
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        assert!(Path::new(&path).exists(), "{path}");
        value.parse::<u32>().unwrap();
    }
}

#[test]
fn the_printed_drop_in_is_one_that_systemd_takes_and_names_what_the_daemon_writes() {
    let host = Host::new();
    host.configure("http://127.0.0.1:1", "on_success = { move = \"done\" }\n[[watch]]\npath = '/srv/100% \"of\\ it: ü'\nname = \"odd\"\npipeline = \"test\"");
    let (code, dropin, error) = host.output(&["check", "--print-dropin"]);
    assert_eq!(code, 0, "{error}");
    let inbox = host.inbox();
    for line in [
        format!("RequiresMountsFor={}", inbox.display()),
        // Beneath /tmp, which the unit replaces.
        format!("BindPaths=-{}", inbox.display()),
        format!("LoadCredential=key:{}", host.path("key").display()),
        r#"ReadWritePaths="-/srv/100%% \"of\\ it: ü""#.to_owned(),
    ] {
        assert!(dropin.lines().any(|there| there == line), "{line} is not in:\n{dropin}");
    }
    assert_eq!(host.output(&["check", "--print-dropin"]).1, dropin, "the same every time");

    let [unit, _] = units(&host);
    let place = "rocketride-ingest.service.d/override.conf";
    host.write(place, &dropin);
    let Some(output) = tool("systemd-analyze", &["verify", unit.to_str().unwrap()]) else { return };
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    // It would have said something: the same place is read.
    host.write(place, dropin + "Unheard=of\n");
    let Some(output) = tool("systemd-analyze", &["verify", unit.to_str().unwrap()]) else { return };
    assert!(said(&output).contains("Unheard"), "{}", said(&output));
}

#[test]
fn the_printed_drop_in_joins_the_group_that_may_write_into_an_inbox() {
    let host = Host::new();
    host.configure("http://127.0.0.1:1", "");
    std::fs::set_permissions(host.inbox(), std::fs::Permissions::from_mode(0o2775)).unwrap();
    // Every Debian has the group `users`; any number will do elsewhere.
    if let Err(error) = std::os::unix::fs::chown(host.inbox(), None, Some(100)) {
        return skipped(&format!("cannot give the inbox to another group: {error}"));
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let name = groups.lines().find(|line| line.split(':').nth(2) == Some("100"));
    let name = name.map_or("100", |line| line.split(':').next().unwrap());
    let (code, dropin, error) = host.output(&["check", "--print-dropin"]);
    assert_eq!(code, 0, "{error}");
    assert!(dropin.contains(&format!("\nSupplementaryGroups={name}\n")), "{dropin}");
}
