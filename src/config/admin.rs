//! `[admin]`: where an operator reaches the running daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::environment::{Context, Environment};
use super::problem::Problems;
use super::secret::Secret;
use super::{blank_as_none, raw, watch};

/// Where the socket is when neither the file nor systemd says so.
pub const DEFAULT_SOCKET: &str = "/run/rocketride-ingest/admin.sock";

/// Name of the socket in `$RUNTIME_DIRECTORY`.
const SOCKET_NAME: &str = "admin.sock";
/// Longest path of a Unix socket, in bytes (`sun_path` of Linux, less the final zero).
pub const MAX_SOCKET_PATH: usize = 107;

/// Where the daemon listens for its operators.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// The Unix socket; whoever may open it has full control.
    pub socket: PathBuf,
    /// The TCP address for metrics, health and the status page, if there is to be one.
    pub listen: Option<SocketAddr>,
    /// Needed for writes over TCP, and for anything but metrics and health from other machines.
    pub token: Option<Secret>,
}

/// The socket where none is written.
pub fn default_socket(env: &Environment) -> PathBuf {
    env.runtime_directory.as_ref().map_or_else(|| DEFAULT_SOCKET.into(), |folder| folder.join(SOCKET_NAME))
}

/// The socket that a configuration text names, if it names one, whatever else is right or wrong in it: commands that only
/// talk to the daemon must work while the file is being edited, and for those who may not read its secrets.
pub fn socket_in(text: &str) -> Option<PathBuf> {
    let file: toml::Table = text.parse().ok()?;
    let socket = file.get("admin")?.get("socket")?.as_str()?;
    Path::new(socket).is_absolute().then(|| socket.into())
}

pub(super) fn admin(written: raw::Admin, context: &Context<'_>, problems: &mut Problems<'_>) -> Admin {
    let socket = blank_as_none(written.socket).and_then(|text| {
        if text.get_ref().len() > MAX_SOCKET_PATH {
            problems.at(
                &text.span(),
                format!("is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have"),
            );
        }
        watch::absolute(&text, problems)
    });
    let listen = blank_as_none(written.listen).and_then(|text| address(&text, problems));
    let token = blank_as_none(written.token_file)
        .map(|file| Secret::file("the admin token".to_owned(), context.candidates(&file, problems)));
    Admin { socket: socket.unwrap_or_else(|| default_socket(context.env)), listen, token }
}

fn address(text: &Spanned<String>, problems: &mut Problems<'_>) -> Option<SocketAddr> {
    let address = text.get_ref().parse();
    if address.is_err() {
        problems.at(&text.span(), "is no address; write an IP and a port, for example \"127.0.0.1:9644\"");
    }
    address.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_found_in_a_file_that_is_otherwise_wrong() {
        let text = "[server]\nurl = 3\n[admin]\nsocket = \"/run/x.sock\"\n[[watch]]\n";
        assert_eq!(socket_in(text), Some("/run/x.sock".into()));
        for without in ["", "[admin]\n", "[admin]\nsocket = \"x.sock\"", "[admin]\nsocket = 3", "[admin"] {
            assert_eq!(socket_in(without), None, "{without:?}");
        }
    }

    #[test]
    fn without_a_word_the_socket_is_where_systemd_says() {
        let env = Environment { runtime_directory: Some("/run/rri".into()), ..Environment::default() };
        assert_eq!(default_socket(&env), Path::new("/run/rri/admin.sock"));
        assert_eq!(default_socket(&Environment::default()), Path::new(DEFAULT_SOCKET));
    }
}
