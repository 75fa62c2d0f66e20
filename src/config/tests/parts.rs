//! What the files of `conf.d` may add, and how a problem with them is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::super::{Config, ConfigError, Environment, MAX_FILES};
use super::MINIMAL;

/// A folder with a configuration file and what is put beside it.
struct Parts(tempfile::TempDir);

impl Parts {
    fn new(text: &str, more: &[(&str, &str)]) -> Self {
        let parts = Self(tempfile::tempdir().unwrap());
        fs::create_dir(parts.path("conf.d")).unwrap();
        fs::write(parts.path("config.toml"), text).unwrap();
        for (name, text) in more {
            fs::write(parts.path(&format!("conf.d/{name}")), text).unwrap();
        }
        parts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.path("config.toml"), &Environment::default())
    }

    /// What is said, with the folder left out.
    fn said(&self) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        let error = self.load().unwrap_err().to_string().replace(&folder, "");
        error.lines().filter(|line| line.contains(": ")).map(str::to_owned).collect()
    }
}

fn watch(name: &str, pipeline: &str) -> String {
    format!("[[watch]]\nname = \"{name}\"\npath = \"/mnt/{name}\"\npipeline = \"{pipeline}\"\n")
}

#[test]
fn what_lies_in_conf_d_is_added_in_the_order_of_the_names() {
    let parts = Parts::new(
        MINIMAL,
        &[
            ("20.toml", &watch("b", "other")),
            ("10.toml", &format!("{}[pipelines.other]\nfile = \"other.pipe\"\n", watch("a", "invoices"))),
            (".hidden.toml", "nonsense"),
            ("30.toml~", "nonsense"),
            ("README", "nonsense"),
        ],
    );
    let config = parts.load().unwrap();
    let watches: Vec<_> = config.watches.iter().map(|watch| watch.name.as_str()).collect();
    assert_eq!(watches, ["invoices", "a", "b"]);
    let pipelines: Vec<_> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(pipelines, ["invoices", "other"]);
    // A relative path is beside the configuration file, whoever names it.
    let super::super::Target::File(path) = &config.pipelines[1].target else { panic!() };
    assert_eq!(*path, parts.path("other.pipe"));
    assert_eq!(config.origin, parts.path("config.toml"));
}

#[test]
fn a_configuration_may_lie_in_conf_d_but_for_its_server() {
    let (server, rest) = MINIMAL.split_once("[pipelines.invoices]").unwrap();
    let parts = Parts::new(server, &[("a.toml", &format!("[pipelines.invoices]{rest}"))]);
    assert_eq!(parts.load().unwrap().watches.len(), 1);
}

#[test]
fn a_name_defined_twice_names_both_files() {
    let pipeline = "[pipelines.invoices]\nfile = \"x\"\n";
    let parts = Parts::new(MINIMAL, &[("a.toml", pipeline), ("b.toml", &watch("invoices", "invoices"))]);
    let said = parts.said();
    assert_eq!(said.len(), 2, "{said:?}");
    let (first, second) = (&said[0], &said[1]);
    assert!(first.starts_with("conf.d/a.toml:1:12: pipelines.invoices: defined already (config.toml:5)"), "{first}");
    assert!(
        second.starts_with("conf.d/b.toml:2:8: watch.name: the watch of config.toml:8 is called \"invoices\" too"),
        "{second}"
    );
    let parts = Parts::new(MINIMAL, &[("a.toml", &watch("a", "invoices")), ("b.toml", &watch("a", "invoices"))]);
    let said = parts.said();
    assert!(said[0].contains("conf.d/b.toml:2:8") && said[0].contains("conf.d/a.toml:2 is called"), "{said:?}");
    assert!(said[1].contains("conf.d/b.toml:3:8") && said[1].contains("(conf.d/a.toml:3)"), "{said:?}");
}

#[test]
fn problems_are_told_with_the_file_and_line_they_stand_in() {
    let parts = Parts::new(
        &MINIMAL.replace("api_key_file", "api_key_fiel"),
        &[
            ("a.toml", "\n[[watch]]\npath = \"/mnt/a\"\npipeline = \"b\"\nsettle = \"soon\"\n"),
            ("b.toml", "# ü\n[server]\nuri = \"x\"\n[pipelines.b]\nthreads = -1\n"),
            ("c.toml", "watch = 3\npipelines = []\n"),
        ],
    );
    let said = parts.said();
    let expected = [
        "config.toml:4:1: server.api_key_fiel: unknown key",
        "conf.d/a.toml:5:10: watch.settle: \"soon\" is not a duration",
        "conf.d/b.toml:2:2: server: a file in conf.d adds [pipelines.NAME] and [[watch]] sections only",
        "conf.d/b.toml:5:11: pipelines.b.threads: ",
        "conf.d/c.toml:1:1: watch: a file in conf.d adds",
        "conf.d/c.toml:2:1: pipelines: a file in conf.d adds",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    let parts = Parts::new(MINIMAL, &[("a.toml", "\n[[watch]]\npath = /mnt"), ("b.toml", "[x]")]);
    assert!(parts.said()[0].starts_with("conf.d/a.toml:3:8: "), "{:?}", parts.said());
    // The end of one file is not the start of the next.
    let parts = Parts::new(&format!("{MINIMAL}\n[log]\nlevel ="), &[("a.toml", "")]);
    assert!(parts.said()[0].starts_with("config.toml:12:"), "{:?}", parts.said());
}

#[test]
fn an_inline_secret_in_conf_d_needs_a_private_file_of_its_own() {
    let parts = Parts::new(MINIMAL, &[("a.toml", "[pipelines.b]\ntoken = \"s3cret\"\n")]);
    let mode = |name: &str, mode| fs::set_permissions(parts.path(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("config.toml", 0o600);
    mode("conf.d/a.toml", 0o644);
    let said = parts.said();
    assert!(said[0].starts_with("conf.d/a.toml:2:9: pipelines.b.token: only allowed in a file"), "{said:?}");
    assert!(!parts.load().unwrap_err().to_string().contains("s3cret"));
    mode("config.toml", 0o644);
    mode("conf.d/a.toml", 0o600);
    parts.load().unwrap();
}

#[test]
fn what_cannot_be_read_in_conf_d_is_refused_and_not_left_out() {
    let parts = Parts::new(MINIMAL, &[]);
    rustix::fs::mknodat(rustix::fs::CWD, parts.path("conf.d/a.toml"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    assert!(parts.said()[0].contains("conf.d/a.toml: it is not a regular file"), "{:?}", parts.said());
    let parts = Parts::new(MINIMAL, &[]);
    std::os::unix::fs::symlink("/nowhere", parts.path("conf.d/a.toml")).unwrap();
    assert!(parts.said()[0].contains("cannot read the configuration file conf.d/a.toml"), "{:?}", parts.said());
    let parts = Parts::new(MINIMAL, &[]);
    fs::write(parts.path("conf.d/a.toml"), b"# \xff").unwrap();
    assert!(parts.said()[0].starts_with("conf.d/a.toml:1:3: not UTF-8"), "{:?}", parts.said());
    let parts = Parts::new(MINIMAL, &[]);
    for number in 0..=MAX_FILES {
        fs::write(parts.path(&format!("conf.d/{number}.toml")), "").unwrap();
    }
    assert!(parts.said()[0].contains("more than 1000 .toml files"), "{:?}", parts.said());
}
