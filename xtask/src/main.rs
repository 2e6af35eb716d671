//! `cargo xtask`: builds, runs, tests and measures sysops-agent.
//!
//! One file per command. None of them depends on the agent's package, so that they work when it does not build.

mod commands;
mod debian;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{bench, build, ci, corpus, demo, ebpf, lint, run, setup, test, vm_test};

/// Builds, runs, tests and measures sysops-agent.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything in release mode and run the agent in the foreground
    Run(run::Options),
    /// Run all tests; as root those against the real kernel, too
    Test(test::Options),
    /// Run the agent and cause harmless real faults in processes of its own; needs root
    Demo,
    /// Measure the release build; needs root
    Bench(bench::Options),
    /// Build the agent in release mode
    Build,
    /// Build the BPF objects that are committed in agent/bpf
    Ebpf(ebpf::Options),
    /// Check formatting, lints of all packages, and who imports whom
    Lint,
    /// Everything a change must pass: setup, lint, ebpf --check, a build without the BPF toolchain, test
    Ci,
    /// Boot other kernels in virtual machines, and run the agent and real faults there
    VmTest(vm_test::Options),
    /// The work inside such a machine
    #[command(hide = true)]
    VmGuest,
    /// Write the labelled series in agent/tests/corpus that detection is measured with
    Corpus(corpus::Options),
    /// Install what the other commands need and this machine lacks
    Setup,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Demo => demo::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Build => build::run(),
        Command::Ebpf(options) => ebpf::run(&options),
        Command::Lint => lint::run(),
        Command::Ci => ci::run(),
        Command::VmTest(options) => vm_test::run(&options),
        Command::VmGuest => vm_test::guest(),
        Command::Corpus(options) => corpus::run(&options),
        Command::Setup => setup::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
