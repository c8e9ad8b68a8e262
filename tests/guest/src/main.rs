// SPDX-License-Identifier: GPL-2.0

//! Tests of the alrandom module, from the outside: with real programs, on a stock kernel, with a
//! virtual AlphaRNG plugged in.
//!
//! The program runs as root in the test machine (tests/vm) and reports by the Test Anything
//! Protocol. Each file of tests is about one behaviour; `support` is what they are written with. To
//! add a file: declare it below, add its `TESTS` to [`FILES`].

mod bench;
mod support;

mod bench_programs;
mod broken_build;
mod bugs;
mod built_in;
mod catalogue;
mod concurrent;
mod dd;
mod failslab;
mod faults;
mod files;
mod health;
mod hostile;
mod hwrng;
mod idle;
mod kunit;
mod load;
mod matrix;
mod nested;
mod other_reads;
mod params;
mod pipelining;
mod polling;
mod power;
mod proc_info;
mod random_calls;
mod raw_gadget;
mod read_table;
mod rngd;
mod rngd_service;
mod several;
mod soak;
mod stock_cdc_acm;
mod storm;
mod syscalls;
mod systemd;
mod takeover;
mod unplug;
mod wipe;

use anyhow::{
    bail,
    Result, //
};
use clap::Parser;
use std::{
    path::PathBuf,
    process::ExitCode,
    time::Duration, //
};
use support::{
    runner::Runner,
    Test, //
};

/// All tests, in the order in which they run: a reader of the results learns first what a stock
/// kernel makes of the device, then the simple things, then the rest.
const FILES: &[&[Test]] = &[
    stock_cdc_acm::TESTS,
    bench_programs::TESTS,
    dd::TESTS,
    read_table::TESTS,
    polling::TESTS,
    other_reads::TESTS,
    syscalls::TESTS,
    random_calls::TESTS,
    concurrent::TESTS,
    proc_info::TESTS,
    params::TESTS,
    files::TESTS,
    unplug::TESTS,
    takeover::TESTS,
    several::TESTS,
    idle::TESTS,
    storm::TESTS,
    soak::TESTS,
    matrix::TESTS,
    faults::TESTS,
    pipelining::TESTS,
    hostile::TESTS,
    load::TESTS,
    hwrng::TESTS,
    rngd::TESTS,
    wipe::TESTS,
    health::TESTS,
    catalogue::TESTS,
    broken_build::TESTS,
];

/// Tests that boot the root's own kernel in the machine.
const STOCK_FILES: &[&[Test]] = &[nested::TESTS];

/// Tests that suspend the machine, which the small kernels of other versions cannot (`CONFIG_PM_DEBUG`, a
/// clock that wakes it).
const SUSPEND_FILES: &[&[Test]] = &[power::TESTS, wipe::SUSPEND_TESTS];

/// Tests that need a machine whose init is systemd; in their order.
const SYSTEMD_FILES: &[&[Test]] = &[systemd::TESTS, rngd_service::TESTS];

impl Options {
    /// The module under test; with some kinds of tests there is none.
    fn module(&self) -> Option<&std::path::Path> {
        (!self.built_in && !self.bugs).then_some(&*self.module)
    }
}

/// The tests of a kernel that has the driver built in.
const BUILT_IN: &[&[Test]] = &[built_in::TESTS];

/// More tests for the debug kernel.
const DEBUG_FILES: &[&[Test]] = &[kunit::TESTS, failslab::TESTS, raw_gadget::TESTS];

/// Tests that the debug kernel has to make fail.
const BUGS: &[&[Test]] = &[bugs::TESTS];

/// Tests the alrandom module in the test machine, as root. Prints TAP.
#[derive(Debug, Parser)]
struct Options {
    /// Names of tests to run (default: all).
    names: Vec<String>,
    /// Run the tests whose names contain one of these.
    #[arg(long, num_args = 1.., value_name = "SUBSTRING")]
    filter: Vec<String>,
    /// Leave out the tests before this one.
    #[arg(long, value_name = "NAME")]
    skip_until: Option<String>,
    /// Print the tests' names and run nothing.
    #[arg(long)]
    list: bool,
    /// Not those tests that any machine will do for, but those that need systemd as init.
    #[arg(long)]
    systemd: bool,
    /// The module under test.
    #[arg(
        long,
        default_value = "/mnt/alrandom/alrandom.ko",
        value_name = "alrandom.ko"
    )]
    module: PathBuf,
    /// Seconds that a test may take.
    #[arg(long, default_value_t = 400, value_name = "SECONDS")]
    time_limit: u64,
    /// Run the tests of a kernel that has the driver built in, and no others.
    #[arg(long)]
    built_in: bool,
    /// Those for the debug kernel: its own, too, but none for the root's kernel.
    #[arg(long)]
    debug: bool,
    /// Those for the kernel that looks for data races: none for the root's kernel.
    #[arg(long)]
    races: bool,
    /// Run the bugs on purpose, and nothing else.
    #[arg(long)]
    bugs: bool,
    /// Measure instead of testing, and print lines of JSON; with a value only the parts with that in
    /// their names.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "PART")]
    bench: Option<String>,
    /// How many rounds to measure (default: 5), or rounds of each storm (default: as each says).
    #[arg(long, value_name = "ROUNDS")]
    rounds: Option<u32>,
    /// Make system calls at random, from this seed.
    #[arg(long, hide = true, value_name = "SEED")]
    random_calls: Option<u64>,
    /// Mix everything, from this seed, and say what happens.
    #[arg(long, value_name = "SEED")]
    soak: Option<u64>,
    /// For how many seconds to soak, or to make system calls.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// Be the process of one test, by its name.
    #[arg(long, hide = true, value_name = "NAME")]
    process_of: Option<String>,
}

/// All tests that there are with these options, of whichever init.
fn all(options: &Options) -> Vec<Test> {
    if options.built_in {
        BUILT_IN.concat()
    } else if options.bugs {
        BUGS.concat()
    } else {
        [
            FILES,
            STOCK_FILES,
            SUSPEND_FILES,
            SYSTEMD_FILES,
            DEBUG_FILES,
        ]
        .concat()
        .concat()
    }
}

/// The tests that the options name.
fn select(options: &Options) -> Result<Vec<Test>> {
    let all = all(options);
    if let Some(unknown) = options
        .names
        .iter()
        .chain(&options.skip_until)
        .find(|name| all.iter().all(|test| test.name() != name.as_str()))
    {
        bail!("there is no test {unknown}: --list prints the names of all");
    }
    let of_init = if options.built_in {
        BUILT_IN.concat()
    } else if options.bugs {
        BUGS.concat()
    } else if options.debug {
        [FILES, SUSPEND_FILES, DEBUG_FILES].concat().concat()
    } else if options.systemd {
        SYSTEMD_FILES.concat()
    } else if options.races {
        [FILES, SUSPEND_FILES].concat().concat()
    } else {
        [FILES, STOCK_FILES, SUSPEND_FILES].concat().concat()
    };
    let named = |test: &Test| {
        let name = test.name();
        // A test that is named runs wherever it may be.
        (!options.names.is_empty() || of_init.iter().any(|other| other.name() == name))
            && (options.names.is_empty() || options.names.iter().any(|wanted| wanted == name))
            && (options.filter.is_empty() || options.filter.iter().any(|part| name.contains(part)))
    };
    Ok(all
        .into_iter()
        .skip_while(|test| {
            options
                .skip_until
                .as_ref()
                .is_some_and(|first| first != test.name())
        })
        .filter(named)
        .collect())
}

/// Does what the options say; whether all went well.
fn run(options: &Options) -> Result<bool> {
    if let Some(name) = &options.process_of {
        let all = all(options);
        let Some(test) = all.iter().find(|test| test.name() == name) else {
            bail!("there is no test {name}");
        };
        let module = options.module();
        return Ok(test.run(module, options.rounds));
    }
    let time = Duration::from_secs(options.seconds);
    if let Some(seed) = options.soak {
        return soak::run(&options.module, seed, time);
    }
    if let Some(seed) = options.random_calls {
        random_calls::make(seed, time)?;
        return Ok(true);
    }
    if let Some(filter) = &options.bench {
        return bench::run_all(&options.module, filter, options.rounds.unwrap_or(5));
    }
    let tests = select(options)?;
    if options.list {
        tests.iter().for_each(|test| println!("{}", test.name()));
        return Ok(true);
    }
    Runner {
        kind: if options.built_in {
            Some("--built-in")
        } else {
            options.bugs.then_some("--bugs")
        },
        module: options.module(),
        limit: Duration::from_secs(options.time_limit),
        rounds: options.rounds,
    }
    .run(&tests)
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        nested::init();
        return ExitCode::FAILURE;
    }
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}
