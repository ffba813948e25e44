//! The command line.

mod backfill;
mod check;
mod demo;
mod outline;
mod run;
mod setup;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// CDC and ETL daemon: PostgreSQL and Kafka in, SQL in the middle, exactly-once Parquet out.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find out everything that can be known before running, all faults at once
    Check(CheckArgs),
    /// Run the pipelines of a project folder until SIGTERM; SIGHUP reloads the folder
    Run(RunArgs),
    /// Print what an administrator has to run on a source's server
    #[command(subcommand)]
    Setup(SetupCommand),
    /// Ask a running daemon how its pipelines are
    Status(StatusArgs),
    /// Have a running daemon copy a table again, or a part of it, while the stream goes on
    Backfill(BackfillArgs),
    /// Show the whole system on this machine in under a minute: PostgreSQL, a broker, a live shop
    Demo(demo::DemoArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The project folder, or one pipeline's file
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Look at the files only; connect to nothing
    #[arg(long)]
    offline: bool,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The project folder, or one pipeline's file
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Address of the admin interface; overrides millstream.yaml
    #[arg(long, env = "MILLSTREAM_ADMIN_LISTEN")]
    admin_listen: Option<std::net::SocketAddr>,
    /// How to write logs to standard error; RUST_LOG sets the level
    #[arg(long, value_enum, default_value_t = Format::Text, env = "MILLSTREAM_LOG_FORMAT")]
    log_format: Format,
}

#[derive(Debug, Subcommand)]
enum SetupCommand {
    /// Role, grants and publication for the PostgreSQL sources: the least that they need
    Postgres(SetupPostgresArgs),
}

#[derive(Debug, Args)]
struct SetupPostgresArgs {
    /// The project folder, or one pipeline's file
    #[arg(default_value = ".")]
    project: PathBuf,
    /// Only the sources of this pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// Print the statements; nothing is run. What a server that can be reached has is left out
    #[arg(long, required = true)]
    print_sql: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The daemon's admin address
    #[arg(long, default_value = "127.0.0.1:9464", env = "MILLSTREAM_ADMIN_LISTEN")]
    admin: std::net::SocketAddr,
    /// How to print the status
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
struct BackfillArgs {
    /// The pipeline's name
    pipeline: String,
    /// The source's table, such as public.orders
    table: String,
    /// Which rows: a condition of SQL over the table's columns, as the server understands it
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// The daemon's admin address
    #[arg(long, default_value = "127.0.0.1:9464", env = "MILLSTREAM_ADMIN_LISTEN")]
    admin: std::net::SocketAddr,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How to print something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For machines
    Json,
}

/// Parses the arguments and runs the command. Returns the process's exit code: 0 for success,
/// 1 for a failure that was explained, 2 for wrong arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Check(args) => check::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Setup(SetupCommand::Postgres(args)) => setup::postgres(&args),
        Command::Status(args) => status::main(&args),
        Command::Backfill(args) => backfill::main(&args),
        Command::Demo(args) => demo::main(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
