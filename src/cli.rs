//! The command line: one file per command. Exit codes: 0 fine, 1 the configuration or the run failed, 2 wrong usage. The
//! surprise: 2 of `diff` means that there is a difference, so that its wrong usage is 1.
mod check;
mod convert;
mod diff;
mod dump;
mod explain;
mod explain_token;
mod lint;
mod run;
mod schema;
mod server;
mod sync;
mod tail;
mod top;
mod version;
mod watch;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// An API gateway that takes Apache APISIX's configuration as it is.
#[derive(Parser)]
#[command(name = "sluice", version, about, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the gateway.
    #[command(
        after_help = "Example:\n  sluice run -c conf/config.yaml\n\nSIGHUP reads the configuration again, USR1 reopens log files, TERM and QUIT finish running requests first."
    )]
    Run(run::Run),
    /// Says everything that is wrong with a configuration, with file, line and column; exit code 1 if anything is.
    #[command(after_help = "Example:\n  sluice check -c conf/config.yaml")]
    Check(check::Check),
    /// Says which route a request would take, why the others lose, and what its plugins and upstream are.
    #[command(
        after_help = "Example:\n  sluice explain -c conf/config.yaml GET 'http://example.com/orders?page=2' -H 'apikey: one'"
    )]
    Explain(explain::Explain),
    /// Makes a token that lets `debug-logger` explain a live request.
    #[command(
        name = "explain-token",
        after_help = "Example:\n  curl -i http://127.0.0.1:9080/orders -H \"Sluice-Explain: $(sluice explain-token --key-file key.txt)\"\n\nThe answer names the record: curl http://127.0.0.1:9090/v1/explain/ID on the gateway's machine."
    )]
    ExplainToken(explain_token::ExplainToken),
    /// Shows routes and upstreams of a running gateway: rates, errors, latencies, health and breakers.
    #[command(after_help = "Examples:\n  sluice top\n  sluice top --once --interval 5 --sort errors --output json")]
    Top(top::Top),
    /// Follows requests of a running gateway as they end.
    #[command(
        after_help = "Examples:\n  sluice tail --status 5xx\n  sluice tail --route orders --host '*.example.com' --output json"
    )]
    Tail(tail::Tail),
    /// Writes the configuration of a running gateway, by its Admin API, in the shape of apisix.yaml.
    #[command(
        after_help = "Example:\n  SLUICE_ADMIN_KEY=… sluice dump --server http://127.0.0.1:9180 --file apisix.yaml\n\nSecrets are masked: a mask that is synced again means \"what the server has\"."
    )]
    Dump(dump::Dump),
    /// Shows what `sync` would change; exit code 0: nothing, 2: something, 1: it failed.
    #[command(
        after_help = "Example:\n  sluice diff --server http://127.0.0.1:9180 --key-file key.txt gateway/ --label team=payments"
    )]
    Diff(diff::Diff),
    /// Makes a running gateway, by its Admin API, have what files say: shows the plan, asks, and applies it.
    #[command(
        after_help = "Example:\n  sluice sync --server http://127.0.0.1:9180 --key-file key.txt gateway/ --yes --message 'release 12'\n\nOn Sluice all changes are one transaction; on APISIX they are made one by one, what others refer to first."
    )]
    Sync(sync::Sync),
    /// Says what is wrong with files of resources, and what is valid and yet probably not meant; exit code 1 for errors.
    #[command(after_help = "Example:\n  sluice lint gateway/ --strict --ignore plain-secret")]
    Lint(lint::Lint),
    /// Makes resources of an OpenAPI document or a decK file, and says what was not carried over.
    #[command(after_help = "Example:\n  sluice convert --from openapi petstore.yaml --file apisix.yaml")]
    Convert(convert::Convert),
    /// Prints the JSON Schema of a plugin or resource.
    #[command(after_help = "Examples:\n  sluice schema limit-count\n  sluice schema route")]
    Schema(schema::Schema),
    /// Prints the version.
    #[command(after_help = "Example:\n  sluice version --output json")]
    Version(version::Version),
}

/// Which configuration.
#[derive(clap::Args, Clone, Default)]
struct ConfigArgument {
    /// config.yaml; apisix.yaml or apisix.json is looked for beside it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The form of a command's output.
#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

/// What `--help` says of the gateway and of each command, by name, for the reference page.
pub fn help() -> Vec<(String, String)> {
    let mut all = Arguments::command().term_width(100);
    all.build();
    let mut out = vec![("sluice".to_owned(), all.render_long_help().to_string())];
    for command in all.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        out.push((format!("sluice {}", command.get_name()), command.render_long_help().to_string()));
    }
    out
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let differs = std::env::args_os().nth(1).is_some_and(|command| command == "diff");
            let code = if differs { error.exit_code().min(1) } else { error.exit_code() };
            return ExitCode::from(u8::try_from(code).unwrap_or(1));
        }
    };
    let result = match arguments.command.unwrap_or_else(|| Command::Run(run::Run::default())) {
        Command::Run(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::ExplainToken(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Tail(command) => command.run(),
        Command::Dump(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Sync(command) => command.run(),
        Command::Lint(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Version(command) => command.run(),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("sluice: {e:#}");
            ExitCode::FAILURE
        }
    }
}
