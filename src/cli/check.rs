//! check
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn main(_: &super::Global, _: &Args) -> Result<std::process::ExitCode, super::Failure> {
    Ok(std::process::ExitCode::SUCCESS)
}
