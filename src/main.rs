//! Arguments -> configuration -> telemetry -> runtime -> command -> exit code.

fn main() -> std::process::ExitCode {
    rocketride_ingest::cli::main()
}
