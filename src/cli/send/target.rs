//! Where the files go: the server, the credential and the task, of the command line, the environment, a `.env` file or
//! the configuration file.
//!
//! Secrets come from files and variables, never from the command line, which every user of the host can read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::Args;
use crate::cli::{Failure, Global, exit, print_error};
use crate::client::builder::{API_KEY_VARIABLE, URI_VARIABLE};
use crate::client::upload::{CHUNK_SIZE, RESULT_TIMEOUT};
use crate::client::{Client, Error, ExecuteOptions, HttpClient, ServiceUri, is_task_key};
use crate::config::{Pipeline, Secret, Target};
use crate::show::{Shown, escaped};

/// The token of a running task; the SDK's name.
const TOKEN_VARIABLE: &str = "ROCKETRIDE_TOKEN";
/// Read in the working directory, for what the environment does not say.
const ENV_FILE: &str = ".env";

/// A client and the task to send to.
pub(super) struct Destination {
    pub(super) client: Client,
    /// Instead of the client, where only HTTP passes.
    pub(super) http: Option<HttpClient>,
    task: Task,
    /// Where the credential is from, for a person.
    key_from: String,
    /// Most bytes in one write.
    pub(super) chunk_size: usize,
    /// How long a result may take before the task is asked for.
    pub(super) result_timeout: Duration,
}

enum Task {
    /// To be started, or joined if it runs.
    Start(Box<ExecuteOptions>),
    /// Running, and named by its token.
    Running(SecretString),
    /// The one that the credential is locked to.
    Locked(SecretString),
}

impl Destination {
    /// What the command line, the environment and the files say; connects to nothing.
    pub(super) fn of(global: &Global, args: &Args) -> Result<Self, Failure> {
        match args.pipeline.as_deref() {
            Some(pipeline) if !is_file(pipeline) => Self::configured(global, args, pipeline),
            file => Self::named(args, file.map(Path::new)),
        }
    }

    /// A pipeline of the configuration file, with its server and its key.
    fn configured(global: &Global, args: &Args, name: &str) -> Result<Self, Failure> {
        if args.uri.is_some() {
            return Err(usage(format_args!(
                "the configuration file says where pipeline {name:?} is: remove --uri, or name a .pipe file"
            )));
        }
        let config = global.load()?;
        config.check_uris().map_err(|error| Failure::new(exit::CONFIG, error))?;
        let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.name == name) else {
            let known: Vec<_> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
            return Err(usage(format_args!(
                "no pipeline {name:?} in {}, which has: {}; a file ends in .pipe or has a / in its name",
                Shown(&config.origin),
                known.join(", ")
            )));
        };
        let unavailable = |error: &dyn std::fmt::Display| Failure::new(exit::UNAVAILABLE, error);
        let key = pipeline.api_key.read().map_err(|error| unavailable(&error))?;
        pipeline.check_key(&key).map_err(|error| unavailable(&error))?;
        let task = match &pipeline.target {
            Target::File(path) => Task::Start(Box::new(started(pipeline, path, config.server.start_timeout)?)),
            Target::Token(token) => Task::Running(token.read().map_err(|error| unavailable(&error))?),
            Target::Credential => Task::Locked(key.clone()),
        };
        let mut builder = Client::builder()
            .uri(pipeline.uri.as_str())
            .api_key(key)
            .allow_plaintext(pipeline.allow_plaintext)
            .connect_timeout(config.server.connect_timeout)
            .request_timeout(config.server.request_timeout)
            .silence_timeout(config.server.silence_timeout)
            .chunk_size(pipeline.chunk_size)
            .result_timeout(pipeline.result_timeout);
        if let Some(path) = &pipeline.ca_file {
            builder = builder.ca_file(path);
        }
        let uri = ServiceUri::parse(&pipeline.uri).map_err(usage)?;
        if let Some(url) = pipeline.proxy.as_ref().and_then(|rule| rule.url(&uri)) {
            builder = builder.proxy(url.clone());
        }
        let http = args.http.then(|| builder.clone().build_http()).transpose().map_err(usage)?;
        let client = builder.build().map_err(usage)?;
        Ok(Self {
            client,
            http,
            task,
            key_from: pipeline.api_key.describe(),
            chunk_size: pipeline.chunk_size,
            result_timeout: pipeline.result_timeout,
        })
    }

    /// A pipeline file or a token, with the server and the key of the environment.
    fn named(args: &Args, file: Option<&Path>) -> Result<Self, Failure> {
        let variables = Variables::read();
        let key = variables.secret(API_KEY_VARIABLE)?;
        let uri = match &args.uri {
            Some(uri) => Some(uri.clone()),
            None => variables.get(URI_VARIABLE)?,
        };
        let uri = uri.ok_or_else(|| {
            usage(format_args!(
                "no server is named: give --uri, or set ${URI_VARIABLE}, also in a {ENV_FILE} file here"
            ))
        })?;
        let key = key.ok_or_else(|| {
            usage(format_args!("no API key: set ${API_KEY_VARIABLE}, also in a {ENV_FILE} file here"))
        })?;
        let task = match (file, &args.token_file) {
            (Some(_), _) if is_task_key(&key) => {
                return Err(usage(format_args!(
                    "a pk_ or tk_ key cannot start a pipeline: use an account key, or leave --pipeline away to send to \
                     the task of the key"
                )));
            }
            (Some(file), _) => Task::Start(Box::new(ExecuteOptions::from_file(file).map_err(usage)?)),
            (None, Some(path)) => {
                let token = Secret::file("the token of --token-file".to_owned(), vec![path.clone()]);
                Task::Running(token.read().map_err(usage)?)
            }
            (None, None) => match variables.secret(TOKEN_VARIABLE)? {
                Some(token) => Task::Running(token),
                None if is_task_key(&key) => Task::Locked(key.clone()),
                None => {
                    return Err(usage(format_args!(
                        "no pipeline is named: give --pipeline or --token-file, or set ${TOKEN_VARIABLE}"
                    )));
                }
            },
        };
        if let Task::Running(token) = &task
            && is_task_key(&key)
            && token.expose_secret() != key.expose_secret()
        {
            return Err(usage("the API key is a pk_ or tk_ key, which is locked to its own task: remove the token"));
        }
        let mut builder = Client::builder().uri(uri).api_key(key).allow_plaintext(args.allow_plaintext);
        if let Some(path) = &args.ca_file {
            builder = builder.ca_file(path);
        }
        // For the proxy; everything else is set.
        let builder = builder.from_env().map_err(usage)?;
        let http = args.http.then(|| builder.clone().build_http()).transpose().map_err(usage)?;
        let client = builder.build().map_err(usage)?;
        let key_from = format!("${API_KEY_VARIABLE}");
        Ok(Self { client, http, task, key_from, chunk_size: CHUNK_SIZE, result_timeout: RESULT_TIMEOUT })
    }

    /// Connects and finds the task, or starts it: the token to send with.
    pub(super) async fn reach(&self) -> Result<SecretString, Failure> {
        self.token().await.map_err(|error| {
            let advice = match &error {
                Error::Authentication(_) => format!("; the server does not take the key from {}", self.key_from),
                Error::NotRunning(_) => "; start the task, or name its .pipe file with --pipeline".to_owned(),
                _ => String::new(),
            };
            Failure::new(exit::UNAVAILABLE, format!("{}{advice}", escaped(&error.to_string())))
        })
    }

    async fn token(&self) -> Result<SecretString, Error> {
        if self.http.is_none() {
            self.client.connection().await?;
        }
        match &self.task {
            Task::Start(options) => Ok(match &self.http {
                Some(http) => http.start_task(options.pipeline.clone(), options.threads).await?.token,
                None => self.client.use_pipeline(options.as_ref().clone()).await?.token,
            }),
            Task::Running(token) | Task::Locked(token) => {
                let status = match &self.http {
                    Some(http) => http.task_status(token).await,
                    None => self.client.get_task_status(token).await,
                };
                match status {
                    Ok(status) if !status.is_running() => {
                        return Err(Error::InvalidData(format!(
                            "the task is not running (its state is {:?}): start it, or name its .pipe file",
                            status.state
                        )));
                    }
                    // A `pk_` key may send data and nothing else; the first open will tell.
                    Ok(_) | Err(Error::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
                // The server ignores the token of a locked credential; an empty one is refused on this side.
                Ok(token.clone())
            }
        }
    }
}

fn started(pipeline: &Pipeline, path: &Path, timeout: Duration) -> Result<ExecuteOptions, Failure> {
    let options = ExecuteOptions::from_file(path).map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    Ok(ExecuteOptions {
        source: pipeline.source.clone(),
        threads: pipeline.threads,
        ttl: Some(pipeline.ttl),
        name: Some(pipeline.name.clone()),
        start_timeout: timeout,
        ..options
    })
}

/// A pipeline is a file by its looks, whether it exists or not: a typing error must not become another meaning.
fn is_file(pipeline: &str) -> bool {
    pipeline.contains('/') || Path::new(pipeline).extension().is_some_and(|extension| extension == "pipe")
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::new(exit::USAGE, message)
}

/// The environment, and behind it the `.env` file. Nothing of the file gets into the environment of the process.
struct Variables {
    file: HashMap<String, SecretString>,
}

impl Variables {
    fn read() -> Self {
        let path = PathBuf::from(ENV_FILE);
        let mut file = HashMap::new();
        // Anything else, such as a FIFO, could block.
        if path.is_file() {
            match dotenvy::from_path_iter(&path) {
                Ok(lines) => {
                    for line in lines {
                        match line {
                            Ok((name, value)) if [URI_VARIABLE, API_KEY_VARIABLE, TOKEN_VARIABLE].contains(&&*name) => {
                                file.entry(name).or_insert_with(|| SecretString::from(value));
                            }
                            Ok(_) => {}
                            // The error quotes the line, which may hold a secret.
                            Err(dotenvy::Error::LineParse(..)) => {
                                print_error(format_args!("{ENV_FILE}: a line that is not NAME=VALUE is left out"));
                            }
                            Err(_) => {
                                print_error(format_args!("{ENV_FILE}: cannot be read to its end"));
                                break;
                            }
                        }
                    }
                }
                Err(_) => print_error(format_args!("{ENV_FILE}: cannot be read, so it is left out")),
            }
        }
        Self { file }
    }

    fn get(&self, name: &str) -> Result<Option<String>, Failure> {
        let own = match std::env::var(name) {
            Ok(value) => Some(value),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => return Err(usage(format_args!("${name} is not valid Unicode"))),
        };
        let is_set = |value: &String| !value.trim().is_empty();
        let of_file = || self.file.get(name).map(|value| value.expose_secret().to_owned());
        Ok(own.filter(is_set).or_else(of_file).filter(is_set).map(|value| value.trim().to_owned()))
    }

    fn secret(&self, name: &str) -> Result<Option<SecretString>, Failure> {
        Ok(self.get(name)?.map(SecretString::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_a_file_by_its_looks() {
        for (pipeline, file) in
            [("a.pipe", true), ("./a", true), ("d/a.json", true), ("invoices", false), ("a.json", false)]
        {
            assert_eq!(is_file(pipeline), file, "{pipeline}");
        }
    }
}
