//! What a [`Client`] does in one call: signs of life, tasks, sending one piece of data, making pipes.
//!
//! Every call connects if need be. Nothing is sent twice, but for the open that finds the data port of a young task not
//! up yet.

use secrecy::SecretString;

use super::data_pipe::DataPipe;
use super::error::{Error, Result};
use super::mime;
use super::object::ObjectInfo;
use super::reconnect::Client;
use super::result::PipelineResult;
use super::task::{ExecuteOptions, START_TIMEOUT, TaskEntry, TaskInfo, TaskStatus};
use super::upload::{Upload, upload};

impl Client {
    /// Asks the server for a sign of life.
    pub async fn ping(&self) -> Result<()> {
        self.connection().await?.ping().await
    }

    /// Starts a pipeline, or joins the task that runs it already; the SDK's `use`.
    ///
    /// Takes a pipeline as a JSON object, or [`ExecuteOptions`] for all else, for example of a file by
    /// [`ExecuteOptions::from_file`].
    pub async fn use_pipeline(&self, options: impl Into<ExecuteOptions>) -> Result<TaskInfo> {
        self.connection().await?.execute(options.into()).await
    }

    /// What a task is doing; [`Error::NotRunning`] if the server does not know the token.
    pub async fn get_task_status(&self, token: &SecretString) -> Result<TaskStatus> {
        let connection = self.connection().await?;
        connection.task_status(token, connection.request_timeout()).await
    }

    /// The tasks that this credential may see, running or lately ended.
    pub async fn get_tasks(&self) -> Result<Vec<TaskEntry>> {
        self.connection().await?.tasks().await
    }

    /// Ends a task; what is in its pipes is lost.
    pub async fn terminate(&self, token: &SecretString) -> Result<()> {
        self.connection().await?.terminate(token, START_TIMEOUT).await
    }

    /// Sends one piece of text or bytes and waits for what the pipeline makes of it.
    ///
    /// Without `mime_type` the object's name decides. The object's size is set from the data. An object without a name
    /// gets one from the server. Nothing is committed unless everything was sent; see [`mod@super::upload`].
    pub async fn send(
        &self,
        token: &SecretString,
        data: impl AsRef<[u8]> + Send,
        object: ObjectInfo,
        mime_type: Option<&str>,
    ) -> Result<PipelineResult> {
        let data = data.as_ref();
        check_token(token)?;
        object.check()?;
        let name = object.name.clone();
        let connection = self.connection().await?;
        let options = Upload {
            chunk_size: self.settings().chunk_size,
            result_timeout: self.settings().result_timeout,
            ..Upload::new(token, object, mime_type.unwrap_or_else(|| mime::of(&name)))
        };
        match upload(&connection, &options, data.len() as u64, data, &mut ()).await {
            Ok(uploaded) => Ok(uploaded.result),
            Err(failure) => Err(failure.error),
        }
    }

    /// A pipe for data that comes in pieces. Nothing is asked of the server before [`DataPipe::open`].
    ///
    /// Without `mime_type` the object's name decides. `provider` is the kind of source that the task must have, usually
    /// none.
    pub fn pipe(
        &self,
        token: &SecretString,
        object: ObjectInfo,
        mime_type: Option<&str>,
        provider: Option<&str>,
    ) -> DataPipe {
        DataPipe::new(self.clone(), token.clone(), object, mime_type, provider)
    }
}

/// An empty token would name whatever task the credential is locked to, or none.
pub(super) fn check_token(token: &SecretString) -> Result<()> {
    use secrecy::ExposeSecret as _;
    if token.expose_secret().is_empty() {
        return Err(Error::InvalidData("the token of the task is empty".into()));
    }
    Ok(())
}
