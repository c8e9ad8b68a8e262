// SPDX-License-Identifier: GPL-2.0

//! The test machine's command, `vm`. `tests/vm/run.sh` starts it, after it has made what it needs.

mod each_kernel;

use alrandom_vm::{
    bench, host, in_tree, interrupt, kernels, kvm, layout,
    linux::{
        self,
        Linux, //
    },
    machine::{
        Kernel,
        Logs,
        Machine,
        Options,
        Parts,
        Payload,
        MEMORY,
        PROCESSORS, //
    },
    more, parallel,
    provoked::{
        self,
        Expected, //
    },
    qemu::Accelerator,
    shell, soak,
    step::{
        copy_sources,
        remove_old,
        Key,
        Progress,
        Workshop, //
    },
    suite::{
        Suite,
        Summary, //
    },
    systemd,
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use clap::{
    Args,
    Parser,
    Subcommand,
    ValueEnum, //
};
use each_kernel::Listed;
use std::{
    ffi::{
        OsStr,
        OsString, //
    },
    fs,
    io::Write,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        ExitCode,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        SystemTime,
        UNIX_EPOCH, //
    },
};

/// How long each stage of a boot may take with KVM. It takes seconds; the rest is for a busy host.
const STAGE_TIME: Duration = Duration::from_secs(60);

/// How long a test may take with KVM, unless the command line says otherwise.
const TEST_TIME: Duration = Duration::from_secs(120);

/// How many rounds of a storm fit into that.
const ROUNDS_IN_TIME: u32 = 50;

/// How long the test that hangs on purpose is given.
const HANG_TIME: Duration = Duration::from_secs(20);

/// What the names of tests begin with that run on a kernel with the driver as a module.
const IN_TREE_MODULE: &str = "in-tree-module::";

/// What the names of tests begin with that run on a kernel with the driver built in.
const IN_TREE_BUILT_IN: &str = "in-tree-";

/// The option of guest-tests for those.
const BUILT_IN_OPTION: &str = "--built-in";

/// The parameters that those ask for on the kernel's command line.
const BUILT_IN_PARAMETERS: [&str; 2] = ["alrandom.minEntropy=7", "alrandom.hwrngQuality=0"];

/// The seed that those expect the device to have.
const BUILT_IN_SEED: u64 = 20_261_121;

/// Rounds of a benchmark: as many as fit into ten minutes in an emulated machine.
const BENCH_ROUNDS: u32 = 5;

/// How long the soak may be silent with KVM: a second or two are usual.
const SOAK_TIME: Duration = Duration::from_secs(60);

/// How long a step of the benchmark may take with KVM. It takes seconds.
const BENCH_TIME: Duration = Duration::from_secs(60);

/// A kernel that looks for bugs in the module.
struct Detector {
    /// Its name, and that of the folder that it is built in.
    name: &'static str,
    /// Its options, on top of [`linux::SMALL`].
    config: &'static str,
    /// The layer that its compiler is in, if that is not the root's.
    layer: Option<&'static str>,
    /// Whether its source has to be that of [`Linux::for_races`].
    races: bool,
    /// Variables for `make` that the kernel is built with.
    kernel: &'static [&'static str],
    /// And the modules.
    modules: &'static [&'static str],
    /// Memory of its machine, in MiB.
    memory: u32,
    /// Its parameters.
    parameters: &'static [&'static str],
    /// What it has to report.
    bugs: &'static [Expected],
    /// The option of guest-tests for it.
    tests: &'static [&'static str],
}

/// The debug kernel. An eighth of its memory is KASAN's, and much of the rest is kept for a while behind its
/// end; each use after free is reported, and not only the first.
const DEBUG: Detector = Detector {
    name: "debug",
    config: linux::DEBUG,
    layer: Some("clang"),
    races: false,
    kernel: &linux::CLANG,
    modules: &linux::CLANG,
    memory: 4096,
    parameters: &["kasan_multi_shot"],
    bugs: &provoked::BUGS,
    tests: &["--debug"],
};

/// The kernel that looks for data races of the module's, which alone is built for it: with itself, and with
/// others where these change what it reads.
const RACES: Detector = Detector {
    name: "races",
    config: linux::RACES,
    layer: None,
    races: true,
    kernel: &linux::GCC,
    modules: &[
        linux::GCC[0],
        linux::GCC[1],
        "RUSTFLAGS_MODULE=-Zsanitizer=thread -Cllvm-args=-tsan-distinguish-volatile=1 \
         -Cllvm-args=-tsan-compound-read-before-write=1",
    ],
    memory: MEMORY,
    parameters: &[],
    bugs: &provoked::RACES,
    tests: &["--races"],
};

/// What the names of tests begin with that need KUnit to be on: it is compiled in, but runs nothing unless it is
/// told to.
const KUNIT: &str = "kunit::";

/// The parameters that tell it to: to be there, and to run a suite that a module brings.
const KUNIT_PARAMETERS: [&str; 2] = ["kunit.enable=1", "kunit.autorun=1"];

/// How much more time everything gets on such a kernel.
const DEBUG_FACTOR: u32 = 3;

/// How much more time everything gets where QEMU emulates the processor.
const TCG_FACTOR: u32 = 5;

/// Runs of which the logs are kept.
const KEPT_LOGS: usize = 20;

/// What runs in the guest for `vm demo`.
const DEMO: &str = include_str!("demo.sh");

/// Makes the kernel's Rust metadata, inside the root: `sh TOOL-SOURCE TOOL CACHE RELEASE [PACKAGE]`, from
/// the kernel's source in PACKAGE if it is not installed. Prints the folder to build modules in.
const METADATA_SCRIPT: &str = "rustc --edition 2021 -O -o \"$2\" \"$1\"; \
    \"$2\" --cache \"$3\" ${5:+--source \"$5\"} \"$4\"";

/// Prints the folder to build modules in: `sh TOOL CACHE RELEASE FILE`.
const FIND_SCRIPT: &str = "\"$1\" --cache \"$2\" --find \"$3\" > \"$4\"";

/// Builds the module, inside the root: `sh SOURCES FOLDER`.
const MODULE_SCRIPT: &str = include_str!("module.sh");

/// Builds a module without asking for more than that, inside the root: `sh SOURCES FOLDER [VARIABLE]...`.
const PLAIN_MODULE_SCRIPT: &str =
    "sources=$1 folder=$2; shift 2; make -C \"$folder\" M=\"$sources\" \"$@\" modules";

/// A build of the module with a bug on purpose, which tests have to see.
struct BrokenBuild {
    /// Where it is in the guest.
    path: &'static str,
    /// What it is, for the one who waits for it.
    doing: &'static str,
    /// The file with the bug.
    file: &'static str,
    /// What it has once.
    right: &'static str,
    /// And what it has instead.
    wrong: &'static str,
}

/// The builds with bugs.
const BROKEN_BUILDS: [BrokenBuild; 2] = [
    // One cutoff is off by one.
    BrokenBuild {
        path: layout::BROKEN_CUTOFF,
        doing: "building a module that its self-test has to refuse",
        file: "health.rs",
        right: "6 => Cutoffs::new([8, 11], [35, 44]),",
        wrong: "6 => Cutoffs::new([8, 11], [36, 44]),",
    },
    // Of what a small read has taken the second half (in words of 8 bytes) is still there for the next.
    BrokenBuild {
        path: layout::BROKEN_DELIVERY,
        doing: "building a module that delivers bytes twice",
        file: "pool.rs",
        right: "let next = self.start.saturating_add(copied);",
        wrong: "let next = self.start.saturating_add(copied.div_ceil(16) * 8);",
    },
];

/// Boots a stock kernel with a virtual AlphaRNG plugged in.
#[derive(Parser)]
struct Arguments {
    /// Directory for what is made once and kept
    #[arg(long)]
    cache: PathBuf,
    /// The project's directory
    #[arg(long)]
    clone: PathBuf,
    /// Directory of the root, as made by tests/vm/setup.sh
    #[arg(long)]
    root: PathBuf,
    /// Directory of the programs (vm-agent, alpharng-emu, guest-tests) [default: this program's]
    #[arg(long)]
    programs: Option<PathBuf>,
    /// A module to use instead of building it
    #[arg(long)]
    module: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    action: Action,
}

/// Whether a device is plugged in.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Device {
    /// One is, from the start
    Plugged,
    /// None is, and there is no USB
    None,
}

/// The guest's init.
#[derive(Clone, Copy, PartialEq)]
enum Init {
    /// The agent itself, with udev and nothing else: quick.
    Agent,
    /// systemd, which starts what a machine without a desktop has, and then the agent.
    Systemd,
}

/// What `vm shell` is told.
#[derive(Args)]
struct Shell {
    /// The command, for the guest's shell
    #[arg(long)]
    cmd: Option<String>,
    /// Whether a device is plugged in
    #[arg(long, value_enum, default_value = "plugged")]
    device: Device,
    /// Boot with systemd as init, and all that it starts
    #[arg(long)]
    systemd: bool,
    /// A command for the guest's shell to run in its root before its init starts
    #[arg(long)]
    before: Option<String>,
    /// An option for the emulator (see `alpharng-emu --help`); may be repeated
    #[arg(long, allow_hyphen_values = true)]
    emulator: Vec<OsString>,
    /// Image of a read-only file system (erofs) to put on top of the root: what it has is all that
    /// there is of the module, none is built or brought along
    #[arg(long)]
    layer: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand)]
enum Action {
    /// Open a root shell in the guest, or run one command there and return its exit status
    Shell(Shell),
    /// Show the module at work
    Demo,
    /// Run only the runner's own tests, which `test` runs as well
    SelfTest,
    /// Run the core tests with each of several kernels
    Kernels {
        /// Which: `list` prints those that there are, `all` means all of them; or words for some, such as 7.2,
        /// backports, sid, experimental, arm64
        selection: String,
    },
    /// Run the guest's tests on a kernel that looks for bugs
    TestDebug {
        /// Only the tests with this in their names
        #[arg(long)]
        filter: Option<String>,
        /// Rounds of each storm [default: as each says]
        #[arg(long)]
        rounds: Option<u32>,
        /// Seconds a test may take [default: 360 with KVM, 1800 without; more with more rounds]
        #[arg(long)]
        time_limit: Option<u64>,
        /// On the kernel that looks for data races, not the one that looks for all else
        #[arg(long)]
        races: bool,
        /// In so many machines at once, each of which has the tests of one file at a time
        #[arg(long, default_value_t = 1)]
        machines: usize,
    },
    /// Mix everything for a long time, and see that it stays as it is
    Soak {
        /// For how many hours; also a part of one, as 0.05
        #[arg(long, default_value_t = 1.0)]
        hours: f64,
        /// What happens follows from this [default: another one each time]
        #[arg(long)]
        seed: Option<u64>,
        /// On the kernel that looks for bugs
        #[arg(long)]
        debug: bool,
    },
    /// Measure the stream between the device and its readers
    Bench {
        /// Only the parts with this in their names
        #[arg(long)]
        filter: Option<String>,
        /// How many times each competitor has its turn
        #[arg(long, default_value_t = BENCH_ROUNDS)]
        rounds: u32,
        /// JSON file with the results of the benchmark of the health tests, to be taken over
        #[arg(long)]
        health: Option<PathBuf>,
        /// Where to write the results as JSON
        #[arg(long)]
        json: PathBuf,
    },
    /// Run the tests
    Test {
        /// Only the tests of the guest, and of --more-tests, with this in their names
        #[arg(long)]
        filter: Option<String>,
        /// Also run this program, which runs the tests that need no machine, and count its results
        #[arg(long)]
        host_tests: Option<PathBuf>,
        /// After the guest's tests also run this program, with the filter as its argument if there is
        /// one, and count its results, which it prints as TAP; may be repeated
        #[arg(long)]
        more_tests: Vec<PathBuf>,
        /// A program to use instead of guest-tests
        #[arg(long)]
        guest_tests: Option<PathBuf>,
        /// Rounds of each storm [default: as each says]
        #[arg(long)]
        rounds: Option<u32>,
        /// Seconds a test may take [default: 120 with KVM, 600 without; more with more rounds]
        #[arg(long)]
        time_limit: Option<u64>,
        /// Whether a device is plugged in
        #[arg(long, value_enum, default_value = "plugged")]
        device: Device,
    },
}

fn main() -> ExitCode {
    // An error is one clear line here; where it came from in this program helps nobody.
    std::env::set_var("RUST_LIB_BACKTRACE", "0");
    let result = interrupt::watch().and_then(|()| run(Arguments::parse()));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the arguments say and returns the exit status.
fn run(arguments: Arguments) -> Result<u8> {
    let programs = match &arguments.programs {
        Some(directory) => directory.clone(),
        None => std::env::current_exe()?
            .parent()
            .context("this program is nowhere")?
            .to_path_buf(),
    };
    let project = Project {
        parts: Parts::new(arguments.root.clone(), programs)?,
        workshop: Workshop {
            cache: arguments.cache.clone(),
            in_root: arguments.clone.join("tests/vm/in-root.sh"),
            root: arguments.root,
            layer: None,
            logs: new_logs(&arguments.cache)?,
            quiet: false,
        },
        clone: arguments.clone,
        module: arguments.module,
        listed: None,
    };
    match arguments.action {
        Action::Shell(shell) => project.shell(shell),
        Action::Demo => project.demo(),
        Action::Kernels { selection } => project.kernels(&selection),
        Action::TestDebug {
            filter,
            rounds,
            time_limit,
            races,
            machines,
        } => project.test_debug(
            if races { &RACES } else { &DEBUG },
            &Tests {
                filter,
                rounds,
                host_tests: None,
                guest_tests: None,
                more_tests: Vec::new(),
                time_limit: time_limit.map(Duration::from_secs),
                device: Device::Plugged,
            },
            machines,
        ),
        Action::Soak { hours, seed, debug } => project.soak(hours, seed, debug),
        Action::Bench {
            filter,
            rounds,
            health,
            json,
        } => project.bench(filter, rounds, health.as_deref(), &json),
        Action::SelfTest => Ok(u8::from(!project.runner_tests()?.failed.is_empty())),
        Action::Test {
            filter,
            host_tests,
            more_tests,
            guest_tests,
            rounds,
            time_limit,
            device,
        } => project.test(&Tests {
            filter,
            rounds,
            host_tests,
            more_tests,
            guest_tests,
            time_limit: time_limit.map(Duration::from_secs),
            device,
        }),
    }
}

/// Makes this run's directory for logs, and removes those of the oldest runs.
fn new_logs(cache: &Path) -> Result<PathBuf> {
    let all = cache.join("logs");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let logs = all.join(format!("{now}-{}", std::process::id()));
    fs::create_dir_all(&logs).with_context(|| format!("can't make {}", logs.display()))?;
    // Another run may be removing them, too.
    let _ = remove_old(&all, "", KEPT_LOGS);
    Ok(logs)
}

/// What `vm test` was told.
struct Tests {
    /// Part of the names of the tests to run.
    filter: Option<String>,
    /// Program that runs the tests that need no machine.
    host_tests: Option<PathBuf>,
    /// Programs that run other tests.
    more_tests: Vec<PathBuf>,
    /// Program instead of `guest-tests`.
    guest_tests: Option<PathBuf>,
    /// Rounds of each storm.
    rounds: Option<u32>,
    /// How long a test may take.
    time_limit: Option<Duration>,
    /// Whether a device is plugged in.
    device: Device,
}

impl Tests {
    /// Whether the test with this name is to run.
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|part| name.contains(part))
    }

    /// As [`Self::wants`], for a test that is there for another kernel as well: the filter has to name this
    /// one, which takes long to build.
    fn wants_in_tree(&self, name: &str) -> bool {
        let named = |part: &String| part.starts_with("in-tree");
        self.filter.as_ref().is_none_or(named) && self.wants(name)
    }

    /// How long a test may take.
    fn limit(&self, accelerator: Accelerator) -> Duration {
        let rounds = self.rounds.unwrap_or_default();
        let usual = scale(TEST_TIME, accelerator) * (1 + rounds / ROUNDS_IN_TIME);
        self.time_limit.unwrap_or(usual)
    }

    /// The guest's program of tests with these options, where a test may take `limit`.
    fn program(&self, options: &[&str], limit: Duration) -> Vec<String> {
        let mut argv = vec![layout::GUEST_TESTS.to_string()];
        argv.extend(options.iter().map(|option| option.to_string()));
        // A program of others need not know these.
        if self.guest_tests.is_none() {
            // It tells more of a test that hangs than the runner can, if it is the first to see it.
            let seconds = limit.as_secs() * 2 / 3;
            argv.extend(["--time-limit".to_string(), seconds.to_string()]);
            if let Some(rounds) = self.rounds {
                argv.extend(["--rounds".to_string(), rounds.to_string()]);
            }
        }
        argv
    }
}

/// The project and what is made of it.
struct Project {
    /// Parts of the machine.
    parts: Parts,
    /// Where things are built.
    workshop: Workshop,
    /// The project's directory.
    clone: PathBuf,
    /// A module that need not be built.
    module: Option<PathBuf>,
    /// The kernel, if it is one of those that are tested besides the test machine's own.
    listed: Option<Listed>,
}

impl Project {
    /// Makes the kernel's Rust metadata. Returns the folder to build modules in, a path inside the root.
    fn metadata(&self) -> Result<PathBuf> {
        let source = self.clone.join("tools/rust-metadata.rs");
        let mut key = Key::default();
        key.add("root", self.parts.root.as_os_str().as_encoded_bytes());
        key.add("release", self.parts.release.as_bytes());
        let text = fs::read(&source).with_context(|| format!("can't read {}", source.display()))?;
        key.add("tool", &text);
        let root = self.parts.root.file_name().unwrap_or_default();
        let mut cache = OsString::from("headers-");
        cache.push(root);
        let cache = self.workshop.cache.join(cache);
        let release = OsStr::new(&self.parts.release);
        let done = self.workshop.once("rust-metadata", &key, |directory| {
            let tool = directory.join("rust-metadata");
            let doing = "making the kernel's Rust metadata (a minute or two)";
            // Only the test machine's own root has its kernel's source installed.
            let layer = self.parts.root.join("base").exists();
            let package = match &self.listed {
                Some(listed) if layer => Some(listed.script.source(&listed.kernel)?),
                _ => None,
            };
            let mut arguments = vec![
                source.as_os_str(),
                tool.as_os_str(),
                cache.as_os_str(),
                release,
            ];
            arguments.extend(package.as_ref().map(|package| package.as_os_str()));
            let made = self
                .workshop
                .build("rust-metadata", doing, METADATA_SCRIPT, &arguments);
            if let Some(package) = package {
                // It is large, and of no more use.
                let _ = fs::remove_file(package);
            }
            made?;
            let file = directory.join("folder");
            let arguments = [
                tool.as_os_str(),
                cache.as_os_str(),
                release,
                file.as_os_str(),
            ];
            self.workshop.build(
                "rust-metadata-find",
                "looking it up",
                FIND_SCRIPT,
                &arguments,
            )
        })?;
        let folder = fs::read_to_string(done.join("folder"))?;
        Ok(PathBuf::from(folder.trim()))
    }

    /// Builds the module. Returns what goes into the guest: the module, and the sources.
    fn build(&self) -> Result<Vec<Payload>> {
        let mut payload = Vec::new();
        let mut add = |path: &str, from: PathBuf| payload.push(Payload::new(path, from));
        let tests = self.parts.programs.join("guest-tests");
        if tests.exists() {
            add(layout::GUEST_TESTS, tests);
        }
        if let Some(module) = &self.module {
            add(layout::MODULE, module.clone());
            return Ok(payload);
        }
        let folder = self.metadata()?;
        let mut key = Key::default();
        key.add("folder", folder.as_os_str().as_encoded_bytes());
        key.add("release", self.parts.release.as_bytes());
        key.add_sources(&self.clone)?;
        let done = self.workshop.once("module", &key, |directory| {
            let sources = directory.join("source");
            let build = directory.join("build");
            copy_sources(&self.clone, &sources)?;
            copy_sources(&self.clone, &build)?;
            let arguments = [build.as_os_str(), folder.as_os_str()];
            let doing = format!("building the module for Linux {}", self.parts.release);
            self.workshop
                .build("module", &doing, MODULE_SCRIPT, &arguments)?;
            let module = build.join("alrandom.ko");
            ensure!(module.exists(), "the build made no {}", module.display());
            Ok(())
        })?;
        add(layout::MODULE, done.join("build/alrandom.ko"));
        // It is no part of the core tests.
        if self.listed.is_none() {
            for broken in &BROKEN_BUILDS {
                let module = self.build_broken(broken, &self.workshop, &folder, &[], &key)?;
                add(broken.path, module);
            }
        }
        add(layout::SOURCES, done.join("source"));
        Ok(payload)
    }

    /// Builds the module with a bug; `key` is the good build's. Returns the module's path.
    fn build_broken(
        &self,
        broken: &BrokenBuild,
        workshop: &Workshop,
        folder: &Path,
        variables: &[&str],
        key: &Key,
    ) -> Result<PathBuf> {
        let BrokenBuild { right, wrong, .. } = broken;
        let mut key = key.clone();
        key.add("broken", wrong.as_bytes());
        let directory = workshop.once("broken-module", &key, |directory| {
            let build = directory.join("build");
            copy_sources(&self.clone, &build)?;
            let file = build.join(broken.file);
            let text = fs::read_to_string(&file)
                .with_context(|| format!("can't read {}", file.display()))?;
            ensure!(
                text.matches(right).count() == 1,
                "{} does not have `{right}` once, which the broken build changes",
                broken.file
            );
            fs::write(&file, text.replace(right, wrong))
                .with_context(|| format!("can't write {}", file.display()))?;
            build_module(
                workshop,
                "broken-module",
                broken.doing,
                &build,
                folder,
                variables,
            )?;
            let module = build.join("alrandom.ko");
            ensure!(module.exists(), "the build made no {}", module.display());
            Ok(())
        })?;
        Ok(directory.join("build/alrandom.ko"))
    }

    /// Boots a machine, with the stages on the terminal.
    fn boot(&self, options: &Options, logs: Logs) -> Result<Machine> {
        self.boot_with(&self.parts, options, logs)
    }

    /// As [`Self::boot`], of these parts.
    fn boot_with(&self, parts: &Parts, options: &Options, logs: Logs) -> Result<Machine> {
        let with = match options.accelerator {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "emulation",
        };
        let what = format!("booting Linux {} ({with})", parts.release);
        let mut progress = Progress::new(&what);
        let booted = Machine::boot(parts, options, logs, |stage| {
            progress.change(&format!("{what}: {stage}"));
        });
        progress.change(&what);
        progress.end(if booted.is_ok() { "done" } else { "failed" });
        booted
    }

    /// Options of a machine with this payload.
    fn options(
        &self,
        payload: Vec<Payload>,
        init: Init,
        device: Device,
        emulator: Vec<OsString>,
    ) -> Result<Options> {
        let accelerator = kvm::choose(&self.parts, &self.workshop.cache, &self.workshop.logs)?;
        Ok(Options {
            accelerator,
            payload: Some(payload),
            layer: None,
            emulator: (device == Device::Plugged).then_some(emulator),
            share: None,
            parameters: match init {
                Init::Agent => Vec::new(),
                Init::Systemd => vec![systemd::PARAMETER.into()],
            },
            memory: MEMORY,
            processors: PROCESSORS,
            stage_time: scale(STAGE_TIME, accelerator),
        })
    }

    /// `vm shell`.
    fn shell(&self, shell: Shell) -> Result<u8> {
        let mut payload = match &shell.layer {
            Some(image) => {
                ensure!(image.is_file(), "there is no {}", image.display());
                Vec::new()
            }
            None => self.build()?,
        };
        if let Some(before) = &shell.before {
            let from = self.workshop.logs.join("before-init");
            fs::write(&from, format!("{before}\n"))
                .with_context(|| format!("can't write {}", from.display()))?;
            payload.push(Payload {
                name: layout::in_payload(layout::BEFORE_INIT),
                from,
            });
        }
        let has = match &shell.layer {
            Some(image) => format!("{} is over its root", image.display()),
            None => format!("{} holds the module and its sources", layout::PAYLOAD),
        };
        let command = shell.cmd.as_deref();
        let init = if shell.systemd {
            Init::Systemd
        } else {
            Init::Agent
        };
        let mut options = self.options(payload, init, shell.device, shell.emulator)?;
        options.layer = shell.layer;
        let mut machine = self.boot(&options, Logs::new(&self.workshop.logs, 1))?;
        if command.is_none() {
            eprintln!(
                "==> a root shell in the guest: {has}; \
                 `exit` ends the machine\n==> logs: {}; sockets (QMP: qmp.sock): {}",
                self.workshop.logs.display(),
                machine.run_directory().display()
            );
        }
        shell::run(&mut machine, command)
    }

    /// `vm bench`.
    fn bench(
        &self,
        filter: Option<String>,
        rounds: u32,
        health: Option<&Path>,
        json: &Path,
    ) -> Result<u8> {
        let health = match health {
            Some(file) => {
                let text = fs::read_to_string(file)
                    .with_context(|| format!("can't read {}", file.display()))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{} is no JSON", file.display()))?
            }
            None => serde_json::Value::Null,
        };
        let mut options = self.options(self.build()?, Init::Agent, Device::Plugged, Vec::new())?;
        if options.accelerator == Accelerator::Tcg {
            // One thread would run several in turn, each for a tenth of a second: they would wait for each other
            // longer than anything here takes, and be busy with that.
            options.processors = 1;
        }
        let host = bench::host();
        let mut machine = self.boot(&options, Logs::new(&self.workshop.logs, 1))?;
        let mut argv = vec![layout::GUEST_TESTS.to_string()];
        argv.push(format!("--bench={}", filter.as_deref().unwrap_or_default()));
        argv.push(format!("--rounds={rounds}"));
        let mut progress = Progress::new("measuring");
        let limit = scale(BENCH_TIME, options.accelerator);
        let results = bench::Results::measure(&mut machine, argv, limit, |step| {
            progress.change(&format!("measuring: {step}"));
        });
        progress.change("measuring");
        progress.end(if results.is_ok() { "done" } else { "failed" });
        let results = results?;

        let with = match options.accelerator {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "emulation",
        };
        println!(
            "Linux {}, {} processor(s) by {with}, {rounds} rounds; host: {} x {}, load before {}",
            self.parts.release,
            options.processors,
            host["processors"],
            host["processor"].as_str().unwrap_or("unknown"),
            host["load_before"].as_str().unwrap_or_default()
        );
        print!("{}", results.table());
        let all = serde_json::json!({
            "host": host,
            "accelerator": with,
            "rounds": rounds,
            "filter": filter,
            "health": health,
            "stream": results.json(),
        });
        fs::write(json, format!("{all:#}\n"))
            .with_context(|| format!("can't write {}", json.display()))?;
        println!(
            "\nas JSON, with the figures of each round: {}",
            json.display()
        );
        Ok(u8::from(!results.is_complete()))
    }

    /// `vm demo`.
    fn demo(&self) -> Result<u8> {
        let options = self.options(self.build()?, Init::Agent, Device::Plugged, Vec::new())?;
        let mut machine = self.boot(&options, Logs::new(&self.workshop.logs, 1))?;
        let status = shell::run(&mut machine, Some(DEMO))?;
        if status != 0 {
            bail!(
                "the demonstration failed with exit status {status}; {}",
                machine.show_logs()
            );
        }
        eprintln!("\n==> that was /dev/alrandom; `make shell` opens a shell in such a machine");
        Ok(0)
    }

    /// Names of the guest's tests, from the program itself.
    fn names(
        program: &Path,
        options: &[&str],
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let output = Command::new(program)
            .args(options)
            .arg("--list")
            .output()
            .with_context(|| format!("can't start {}", program.display()))?;
        ensure!(
            output.status.success(),
            "{} --list: {}",
            program.display(),
            output.status
        );
        let text = String::from_utf8(output.stdout).context("a test's name is not UTF-8")?;
        Ok(text
            .lines()
            .map(str::trim)
            .filter(|name| !name.is_empty() && wanted(name))
            .map(str::to_string)
            .collect())
    }

    /// `vm test`.
    fn test(&self, tests: &Tests) -> Result<u8> {
        let logs = &self.workshop.logs;
        println!("==> logs: {}", logs.display());
        let mut passed = 0;
        let mut failed: Vec<String> = Vec::new();
        let mut uncounted = 0;
        if let (Some(program), None) = (&tests.host_tests, &tests.filter) {
            println!("==> tests that need no machine");
            let log = logs.join("host-tests.log");
            let count = host::run(program, &log)?;
            passed += count.passed;
            uncounted = count.failed.saturating_sub(count.names.len());
            failed.extend(
                count
                    .names
                    .iter()
                    .map(|name| format!("{name}\n      log: {}", log.display())),
            );
        }
        // Another program need not know of systemd, and of other kernels.
        let own = tests.guest_tests.is_none();
        let mut runs = Vec::new();
        if own && tests.filter.is_none() {
            // The kernels take the processors that the machines leave.
            let in_tree = self.in_tree(tests);
            println!("==> behind the guest tests: kernels are built for the in-tree tests");
            let mut out = Vec::new();
            let built = thread::scope(|scope| {
                let built = scope
                    .spawn(|| in_tree.and_then(|it| self.build_in_tree(it, tests, true, &mut out)));
                runs.push(("guest tests", self.guest_tests(tests, Init::Agent)));
                runs.push((
                    "guest tests under systemd",
                    self.guest_tests(tests, Init::Systemd),
                ));
                built
                    .join()
                    .unwrap_or_else(|_| bail!("the thread that builds them has panicked"))
            });
            println!("==> tests in a kernel's source tree");
            std::io::stdout().write_all(&out)?;
            runs.push((
                "in-tree tests",
                built.and_then(|built| self.run_in_tree(built, tests)),
            ));
        } else {
            runs.push(("guest tests", self.guest_tests(tests, Init::Agent)));
            if own {
                runs.push((
                    "guest tests under systemd",
                    self.guest_tests(tests, Init::Systemd),
                ));
                runs.push(("in-tree tests", self.in_tree_tests(tests)));
            }
        }
        if tests.filter.is_none() && tests.guest_tests.is_none() {
            runs.push(("the runner's own tests", self.runner_tests()));
        }
        for (what, run) in runs {
            match run {
                Ok(summary) => {
                    passed += summary.passed;
                    failed.extend(summary.failed.iter().map(|failure| {
                        format!(
                            "{}: {}\n      log: {}",
                            failure.name,
                            failure.why,
                            failure.log.display()
                        )
                    }));
                }
                Err(error) => failed.push(format!("{what}: {error:#}")),
            }
        }
        for program in &tests.more_tests {
            let log = self.log_of(program);
            match more::run(program, tests.filter.as_deref(), &log) {
                Ok(results) => {
                    passed += results.passed;
                    let failures = results.failed.iter();
                    failed.extend(failures.map(|failure| {
                        format!("{failure}\n      log: {}", log.display()) //
                    }));
                }
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        if let (Some(filter), 0, true) = (&tests.filter, passed, failed.is_empty()) {
            failed.push(format!("no test's name contains {filter:?}"));
        }
        let count = failed.len() + uncounted;
        if count > 0 {
            println!("\nfailed:");
            for failure in &failed {
                println!("  {failure}");
            }
        }
        println!("\nlogs: {}", logs.display());
        println!("{passed} passed, {count} failed");
        Ok(u8::from(count > 0))
    }

    /// The log of a program of tests: named after it and its directory, as these are all `run.sh` or so.
    fn log_of(&self, program: &Path) -> PathBuf {
        let directory = program.parent().and_then(Path::file_name);
        let mut name = directory.unwrap_or_default().to_os_string();
        name.push("-");
        name.push(program.file_stem().unwrap_or_default());
        name.push(".log");
        self.workshop.logs.join(name)
    }

    /// Runs those of the tests in the guest that need this init.
    fn guest_tests(&self, tests: &Tests, init: Init) -> Result<Summary> {
        let own = self.parts.programs.join("guest-tests");
        let program = tests.guest_tests.as_ref().unwrap_or(&own);
        let of_init = match init {
            Init::Agent => &[][..],
            Init::Systemd => &["--systemd"],
        };
        let names = Self::names(program, of_init, &|name| tests.wants(name))?;
        if names.is_empty() {
            return Ok(Summary::default());
        }
        let mut payload = self.build()?;
        if let Some(other) = &tests.guest_tests {
            payload.retain(|item| item.from != own);
            payload.push(Payload {
                name: layout::in_payload(layout::GUEST_TESTS),
                from: other.clone(),
            });
        }
        let options = self.options(payload, init, tests.device, Vec::new())?;
        let (with, logs) = match init {
            Init::Agent => ("", self.workshop.logs.clone()),
            Init::Systemd => (" under systemd", self.workshop.logs.join("systemd")),
        };
        fs::create_dir_all(&logs).with_context(|| format!("can't make {}", logs.display()))?;
        println!("==> {} tests in the guest{with}", names.len());
        let limit = tests.limit(options.accelerator);
        self.run_guest_tests(names, &options, &logs, limit, &tests.program(&[], limit))
    }

    /// Runs the tests `names` of `program` in machines with these options and logs; each may take `limit`.
    fn run_guest_tests(
        &self,
        names: Vec<String>,
        options: &Options,
        logs: &Path,
        limit: Duration,
        program: &[String],
    ) -> Result<Summary> {
        let mut suite = Suite {
            boot: &mut |logs| self.boot(options, logs),
            program,
            logs,
            limit,
            out: &mut std::io::stdout(),
            summary: Summary::default(),
        };
        suite.run(names)?;
        Ok(suite.summary)
    }

    /// Makes a layer of packages for the root, see tests/vm/root.conf.
    fn layer(&self, name: &str) -> Result<Workshop> {
        let script = self.clone.join("tests/vm/setup.sh");
        let output = Command::new(&script)
            .args(["--layer", name])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("can't start {}", script.display()))?;
        ensure!(output.status.success(), "making the layer {name} failed");
        let text = String::from_utf8_lossy(&output.stdout);
        let layer = text.lines().find_map(|line| line.strip_prefix("layer="));
        Ok(Workshop {
            layer: Some(layer.context("setup.sh names no layer")?.into()),
            ..self.workshop.clone()
        })
    }

    /// Runs the tests of the driver in a kernel's source tree: those that need no kernel to run, the
    /// core of the guest's tests with the module of a kernel that was built there, and the tests of
    /// a kernel that has the driver built in.
    fn in_tree_tests(&self, tests: &Tests) -> Result<Summary> {
        let in_tree = self.in_tree(tests)?;
        if !in_tree.build() && !in_tree::names().any(|name| tests.wants(name)) {
            return Ok(Summary::default());
        }
        println!("==> tests in a kernel's source tree");
        let built = self.build_in_tree(in_tree, tests, false, &mut std::io::stdout())?;
        self.run_in_tree(built, tests)
    }

    /// Which of them are to run on its kernels.
    fn in_tree(&self, tests: &Tests) -> Result<InTree> {
        let program = self.parts.programs.join("guest-tests");
        // It is the same source as the usual module's: these show that the build works.
        let mut of_module = kernels::core_tests(&Self::names(&program, &[], &|_| true)?)?;
        of_module.retain(|name| tests.wants_in_tree(&format!("{IN_TREE_MODULE}{name}")));
        let of_built_in = Self::names(&program, &[BUILT_IN_OPTION], &|name| {
            tests.wants_in_tree(&format!("{IN_TREE_BUILT_IN}{name}"))
        })?;
        Ok(InTree {
            of_module,
            of_built_in,
            summary: Summary::default(),
            kernels: None,
        })
    }

    /// Runs those that need no kernel to run, telling `out` how they ended, and builds the kernels. What takes
    /// long is told of unless that is to be `quiet`.
    fn build_in_tree(
        &self,
        mut in_tree: InTree,
        tests: &Tests,
        quiet: bool,
        out: &mut dyn Write,
    ) -> Result<InTree> {
        let workshop = Workshop {
            quiet,
            ..self.layer("menu")?
        };
        let linux = Linux::open(&workshop, &self.parts.root)?;
        let wanted = |name: &str| tests.wants(name);
        (in_tree.summary, in_tree.kernels) =
            in_tree::run(&linux, &self.clone, &wanted, in_tree.build(), out)?;
        Ok(in_tree)
    }

    /// Runs those that need the kernels, if these could be built.
    fn run_in_tree(&self, in_tree: InTree, tests: &Tests) -> Result<Summary> {
        let InTree {
            of_module,
            of_built_in,
            mut summary,
            kernels,
        } = in_tree;
        let Some(kernels) = kernels else {
            return Ok(summary);
        };
        let program = self.parts.programs.join("guest-tests");
        let guest_tests = |module: Option<PathBuf>| {
            let module = module.map(|from| (layout::MODULE, from));
            [(layout::GUEST_TESTS, program.clone())]
                .into_iter()
                .chain(module)
                .map(|(path, from)| Payload::new(path, from))
                .collect::<Vec<_>>()
        };
        let module = kernels.module.join(in_tree::MODULE);
        let machine = self.options(
            guest_tests(Some(module)),
            Init::Agent,
            Device::Plugged,
            Vec::new(),
        )?;
        let of_module = OtherKernel {
            what: "module",
            prefix: IN_TREE_MODULE,
            directory: &kernels.module,
            names: of_module,
            options: &[],
            machine,
        };
        let emulator = ["--source".into(), format!("seeded:{BUILT_IN_SEED}").into()];
        let mut machine = self.options(
            guest_tests(None),
            Init::Agent,
            Device::Plugged,
            emulator.into(),
        )?;
        machine.parameters = BUILT_IN_PARAMETERS.map(str::to_string).into();
        let of_built_in = OtherKernel {
            what: "built-in",
            prefix: IN_TREE_BUILT_IN,
            directory: &kernels.built_in,
            names: of_built_in,
            options: &[BUILT_IN_OPTION],
            machine,
        };
        for other in [of_module, of_built_in] {
            let limit = tests.limit(other.machine.accelerator);
            summary.add(self.other_kernel(tests, limit, other)?);
        }
        Ok(summary)
    }

    /// Runs guest tests, which may take `limit` each, on another kernel.
    fn other_kernel(&self, tests: &Tests, limit: Duration, other: OtherKernel) -> Result<Summary> {
        if other.names.is_empty() {
            return Ok(Summary::default());
        }
        let parts = self.parts.with(Kernel::in_directory(other.directory)?);
        let logs = self.workshop.logs.join(other.what);
        fs::create_dir_all(&logs)?;
        println!("==> {} tests with it as {}", other.names.len(), other.what);
        let mut suite = Suite {
            boot: &mut |logs| self.boot_with(&parts, &other.machine, logs),
            program: &tests.program(other.options, limit),
            logs: &logs,
            limit,
            out: &mut std::io::stdout(),
            summary: Summary::default(),
        };
        suite.run(other.names)?;
        let mut summary = suite.summary;
        for failure in &mut summary.failed {
            failure.name.insert_str(0, other.prefix);
        }
        Ok(summary)
    }

    /// As [`Self::other_kernel`], in so many machines at once: each of them is booted for the tests of one file,
    /// and then for those of the next that is left.
    fn machines(
        &self,
        tests: &Tests,
        limit: Duration,
        other: &OtherKernel,
        machines: usize,
    ) -> Result<Summary> {
        let files = other.names.chunk_by(|a, b| file_of(a) == file_of(b));
        let summaries = parallel::each(files, machines, |names| {
            let what = format!("{}/{}", other.what, file_of(&names[0]));
            let of_file = OtherKernel {
                what: &what,
                names: names.to_vec(),
                ..other.clone()
            };
            self.other_kernel(tests, limit, of_file)
        })?;
        let mut all = Summary::default();
        summaries.into_iter().for_each(|summary| all.add(summary));
        Ok(all)
    }

    /// Options of a machine with such a kernel and this payload.
    fn debug_options(&self, detector: &Detector, payload: Vec<Payload>) -> Result<Options> {
        let mut options = self.options(payload, Init::Agent, Device::Plugged, Vec::new())?;
        options.memory = detector.memory;
        options.parameters = detector
            .parameters
            .iter()
            .map(|word| word.to_string())
            .collect();
        options.stage_time *= DEBUG_FACTOR;
        Ok(options)
    }

    /// `vm soak`.
    fn soak(&self, hours: f64, seed: Option<u64>, debug: bool) -> Result<u8> {
        let seconds = Duration::try_from_secs_f64(hours * 3600.0)
            .with_context(|| format!("{hours} hours are no time"))?
            .as_secs();
        // Any number will do that is another one next time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let seed = seed.unwrap_or(now.as_secs());
        let (parts, options) = if debug {
            let (kernel, payload) = self.debug_kernel(&DEBUG)?;
            let parts = self.parts.with(Kernel::in_directory(&kernel)?);
            (parts, self.debug_options(&DEBUG, payload)?)
        } else {
            let options = self.options(self.build()?, Init::Agent, Device::Plugged, Vec::new())?;
            (self.parts.clone(), options)
        };
        let limit = scale(SOAK_TIME, options.accelerator) * if debug { DEBUG_FACTOR } else { 1 };
        let log = self.workshop.logs.join("soak.log");
        println!("==> log: {}", log.display());
        let mut machine = self.boot_with(&parts, &options, Logs::new(&self.workshop.logs, 1))?;
        let argv = [
            layout::GUEST_TESTS.to_string(),
            format!("--soak={seed}"),
            format!("--seconds={seconds}"),
        ];
        let out = &mut std::io::stdout();
        let passed = soak::run(&mut machine, argv.into(), limit, &log, out)?;
        if passed {
            println!("passed");
        } else {
            println!("\nlogs: {}", self.workshop.logs.display());
            println!("FAILED; once more the same: make soak HOURS={hours} SEED={seed}");
        }
        Ok(u8::from(!passed))
    }

    /// `vm test-debug`.
    fn test_debug(&self, detector: &Detector, tests: &Tests, machines: usize) -> Result<u8> {
        println!("==> logs: {}", self.workshop.logs.display());
        let (kernel, payload) = self.debug_kernel(detector)?;
        let options = self.debug_options(detector, payload)?;
        let limit = tests.limit(options.accelerator);
        let limit = tests.time_limit.unwrap_or(limit * DEBUG_FACTOR);
        let program = self.parts.programs.join("guest-tests");

        println!("==> bugs on purpose: the kernel has to see them, and the runner to tell");
        let parts = self.parts.with(Kernel::in_directory(&kernel)?);
        let logs = self.workshop.logs.join("bugs");
        fs::create_dir_all(&logs)?;
        let mut summary = if tests.wants("bugs::") {
            provoked::run(
                &mut |logs| self.boot_with(&parts, &options, logs),
                &[layout::GUEST_TESTS, "--bugs"],
                "detectors",
                detector.bugs,
                &logs,
                limit,
                &mut std::io::stdout(),
            )?
        } else {
            Summary::default()
        };
        let names = Self::names(&program, detector.tests, &|name| tests.wants(name))?;
        // Every load of the module would take KUnit's time.
        let (of_kunit, others) = names.into_iter().partition(|name| name.starts_with(KUNIT));
        for (what, names, parameters) in [
            ("kunit", of_kunit, &KUNIT_PARAMETERS[..]),
            (detector.name, others, &[]),
        ] {
            let mut machine = options.clone();
            let parameters = parameters.iter().map(|word| word.to_string());
            machine.parameters.extend(parameters);
            let other = OtherKernel {
                what,
                prefix: "",
                directory: &kernel,
                names,
                options: detector.tests,
                machine,
            };
            summary.add(if machines > 1 {
                self.machines(tests, limit, &other, machines)?
            } else {
                self.other_kernel(tests, limit, other)?
            });
        }
        for failure in &summary.failed {
            println!(
                "failed: {}: {}\n      log: {}",
                failure.name,
                failure.why,
                failure.log.display()
            );
        }
        println!("\nlogs: {}", self.workshop.logs.display());
        println!("{} passed, {} failed", summary.passed, summary.failed.len());
        Ok(u8::from(!summary.failed.is_empty() || summary.passed == 0))
    }

    /// Builds such a kernel and the modules for it. Returns its directory, and what goes into the guest.
    fn debug_kernel(&self, detector: &Detector) -> Result<(PathBuf, Vec<Payload>)> {
        let Detector {
            name,
            kernel: variables,
            modules,
            ..
        } = *detector;
        let workshop = &match detector.layer {
            Some(layer) => self.layer(layer)?,
            None => self.workshop.clone(),
        };
        let mut linux = Linux::open(workshop, &self.parts.root)?;
        if detector.races {
            linux = linux.for_races()?;
        }
        let wanted = linux::merge(linux::SMALL, detector.config);
        let mut key = linux.key();
        key.add("configuration", wanted.as_bytes());
        let log = format!("{name}-kernel");
        let kernel = workshop.once(&log, &key, |to| {
            linux.configure(name, &wanted, variables)?;
            let targets = [&["bzImage", "modules"][..], variables].concat();
            let doing = format!("building the {name} kernel (long, the first time)");
            linux.make(name, &log, &doing, &targets)?;
            linux.install(name, to, variables)
        })?;

        let folder = linux.folder(name);
        key.add_sources(&self.clone)?;
        for variable in modules {
            key.add("variable", variable.as_bytes());
        }
        let log = format!("{name}-alrandom");
        let module = workshop.once(&log, &key, |directory| {
            let build = directory.join("build");
            copy_sources(&self.clone, &directory.join("source"))?;
            copy_sources(&self.clone, &build)?;
            let doing = format!("building the module for the {name} kernel");
            build_module(workshop, &log, &doing, &build, &folder, modules)
        })?;
        let source = self.clone.join("tests/guest/bugs");
        let mut bugs_key = key.clone();
        bugs_key.add_sources(&source)?;
        let bugs = workshop.once("bugs-module", &bugs_key, |directory| {
            copy_sources(&source, directory)?;
            let doing = "building a module with bugs on purpose";
            build_module(workshop, "bugs-module", doing, directory, &folder, modules)
        })?;
        let mut payload = vec![
            (layout::GUEST_TESTS, self.parts.programs.join("guest-tests")),
            (layout::MODULE, module.join("build/alrandom.ko")),
            (layout::SOURCES, module.join("source")),
            (layout::BUGS, bugs.join("alrandom_bugs.ko")),
        ];
        for broken in &BROKEN_BUILDS {
            let module = self.build_broken(broken, workshop, &folder, modules, &key)?;
            payload.push((broken.path, module));
        }
        let payload = payload.into_iter();
        let payload = payload.map(|(path, from)| Payload::new(path, from));
        Ok((kernel, payload.collect()))
    }

    /// Runs the runner's own tests.
    fn runner_tests(&self) -> Result<Summary> {
        let logs = self.workshop.logs.join("runner");
        fs::create_dir_all(&logs)?;
        let payload = vec![Payload {
            name: "bin/guest-tests".into(),
            from: provoked::program(&logs)?,
        }];
        let options = self.options(payload, Init::Agent, Device::None, Vec::new())?;
        println!("==> the runner's own tests: it has to see a hang, a crash and other failures");
        provoked::run(
            &mut |logs| self.boot(&options, logs),
            &[layout::GUEST_TESTS],
            "runner",
            &provoked::STAND_IN,
            &logs,
            HANG_TIME,
            &mut std::io::stdout(),
        )
    }
}

/// The tests of the driver in a kernel's source tree.
struct InTree {
    /// Guest tests for the kernel that has it as a module.
    of_module: Vec<String>,
    /// Guest tests for the kernel that has it built in.
    of_built_in: Vec<String>,
    /// How those went that need no kernel to run.
    summary: Summary,
    /// The kernels, once they are built.
    kernels: Option<in_tree::Kernels>,
}

impl InTree {
    /// Whether the kernels are needed.
    fn build(&self) -> bool {
        !self.of_module.is_empty() || !self.of_built_in.is_empty()
    }
}

/// Builds the module in `sources` for the kernel in `folder`.
fn build_module(
    workshop: &Workshop,
    name: &str,
    doing: &str,
    sources: &Path,
    folder: &Path,
    variables: &[&str],
) -> Result<()> {
    let mut arguments = vec![sources.as_os_str(), folder.as_os_str()];
    arguments.extend(variables.iter().map(OsStr::new));
    workshop.build(name, doing, PLAIN_MODULE_SCRIPT, &arguments)
}

/// The file that the guest test with this name is in.
fn file_of(test: &str) -> &str {
    test.split("::").next().unwrap_or(test)
}

/// Guest tests on a kernel that is not the root's.
#[derive(Clone)]
struct OtherKernel<'a> {
    /// What it is, in a word.
    what: &'a str,
    /// What the names of its tests begin with.
    prefix: &'a str,
    /// Directory of the kernel.
    directory: &'a Path,
    /// The tests.
    names: Vec<String>,
    /// Options of the program in the guest.
    options: &'a [&'a str],
    /// The machine.
    machine: Options,
}

/// A time limit for this accelerator.
fn scale(limit: Duration, accelerator: Accelerator) -> Duration {
    match accelerator {
        Accelerator::Kvm => limit,
        Accelerator::Tcg => limit * TCG_FACTOR,
    }
}
