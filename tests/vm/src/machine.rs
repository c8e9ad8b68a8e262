// SPDX-License-Identifier: GPL-2.0

//! A running virtual machine: QEMU, the emulator, and the connection to the guest's agent.

use crate::{
    architecture::Architecture,
    cpio::Archive,
    frame::{
        Frame,
        Job, //
    },
    interrupt, layout,
    modules::Modules,
    qemu::{
        self,
        Accelerator, //
    },
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use std::{
    ffi::OsString,
    fs::{
        self,
        File, //
    },
    io::BufWriter,
    os::unix::net::UnixStream,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Child,
        Command,
        Stdio, //
    },
    sync::mpsc::{
        self,
        Receiver,
        RecvTimeoutError, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// What the guest's root needs to be mounted; the rest is udev's business.
const ROOT_MODULES: [&str; 3] = ["virtio_blk", "erofs", "overlay"];

/// How often a wait looks whether QEMU and the emulator still run.
const POLL: Duration = Duration::from_millis(200);

/// How long QEMU may take to open its sockets: they are there at once, unless the host is very busy.
const QEMU_TIME: Duration = Duration::from_secs(60);

/// Lines of a log that an error message shows.
const LOG_LINES: usize = 15;

/// A kernel that is not the root's own.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// What QEMU starts.
    pub image: PathBuf,
    /// Directory of its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// Name of the file that QEMU starts, in the directory of a kernel.
    pub const IMAGE: &str = "bzImage";

    /// Name of the file with the release, in the directory of a kernel.
    pub const RELEASE: &str = "release";

    /// The kernel in a directory that has these files, and the modules in `lib/modules`.
    ///
    /// # Errors
    ///
    /// If one is not there.
    pub fn in_directory(directory: &Path) -> Result<Kernel> {
        let file = directory.join(Self::RELEASE);
        let release = fs::read_to_string(&file)
            .with_context(|| format!("can't read {}", file.display()))?
            .trim()
            .to_string();
        let modules = directory.join("lib/modules").join(&release);
        let image = directory.join(Self::IMAGE);
        ensure!(modules.is_dir(), "there is no {}", modules.display());
        ensure!(image.is_file(), "there is no {}", image.display());
        Ok(Kernel {
            release,
            image,
            modules,
        })
    }
}

/// Files that machines are made from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Directory of the root: `tree/` and `disk.img`. If it is a layer over another root, also `base`, that
    /// root, and `lower.img`, the image of the disk below this one's.
    pub root: PathBuf,
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The machine's architecture.
    pub architecture: Architecture,
    /// Directory of the programs: `vm-agent`, `alpharng-emu`, `guest-tests`.
    pub programs: PathBuf,
    /// The kernel, if it is not the root's.
    pub other: Option<Kernel>,
}

impl Parts {
    /// Finds out about the root.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn new(root: PathBuf, programs: PathBuf) -> Result<Parts> {
        let file = root.join("tree/etc/alrandom-kernel");
        let release = fs::read_to_string(&file)
            .with_context(|| format!("can't read {}: run tests/vm/setup.sh", file.display()))?;
        // The test machine's own root says nothing: it is of the default architecture.
        let architecture = fs::read_to_string(root.join("tree/etc/alrandom-architecture"))
            .map_or(Ok(Architecture::default()), |name| {
                Architecture::parse(name.trim())
            })?;
        Ok(Parts {
            architecture,
            root,
            release: release.trim().to_string(),
            programs,
            other: None,
        })
    }

    /// The same with another kernel.
    pub fn with(&self, kernel: Kernel) -> Parts {
        Parts {
            release: kernel.release.clone(),
            other: Some(kernel),
            ..self.clone()
        }
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        match &self.other {
            Some(kernel) => kernel.image.clone(),
            None => self
                .root
                .join(format!("tree/boot/vmlinuz-{}", self.release)),
        }
    }

    /// The disks' images, the uppermost first.
    pub fn disks(&self) -> Vec<PathBuf> {
        let lower = Some(self.root.join("lower.img")).filter(|image| image.exists());
        [self.root.join("disk.img")]
            .into_iter()
            .chain(lower)
            .collect()
    }

    /// Writes the initial ram disk for a machine with these disks, the uppermost first, or for one without any
    /// (a probe).
    fn write_ram_disk(
        &self,
        to: &Path,
        payload: Option<&[Payload]>,
        disks: &[PathBuf],
    ) -> Result<()> {
        let file = File::create(to).with_context(|| format!("can't write {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        let agent = self.programs.join("vm-agent");
        archive.copy("init", &agent)?;
        let Some(payload) = payload else {
            return archive.finish().map(drop);
        };
        let directory = match &self.other {
            Some(kernel) => kernel.modules.clone(),
            None => self.root.join("tree/usr/lib/modules").join(&self.release),
        };
        if self.other.is_some() {
            // Those of the root's kernel are on its disk.
            archive.copy_all(inside(layout::MODULES), &directory)?;
        }
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
        };
        let modules = Modules::parse(&read("modules.dep")?, &read("modules.builtin")?);
        let mut list = String::new();
        for (index, path) in modules.load_order(&ROOT_MODULES)?.iter().enumerate() {
            let file = path.rsplit('/').next().unwrap_or(path);
            let inside = format!("modules/{index:02}-{file}");
            archive.copy(&inside, &directory.join(path))?;
            list.push_str(&format!("/{inside}\n"));
        }
        archive.file(inside(layout::MODULE_LIST), 0o644, list.as_bytes())?;
        // The names that the disks get, in their order.
        let disks: String = ('a'..='z')
            .zip(disks)
            .map(|(letter, _)| format!("/dev/vd{letter}\n"))
            .collect();
        archive.file(inside(layout::DISK_LIST), 0o644, disks.as_bytes())?;
        archive.copy(inside(layout::AGENT), &agent)?;
        for item in payload {
            let name = format!("{}/{}", inside(layout::PAYLOAD), item.name);
            if item.from.is_dir() {
                archive.copy_all(&name, &item.from)?;
            } else {
                archive.copy(&name, &item.from)?;
            }
        }
        archive.finish().map(drop)
    }
}

/// A path of the guest's as an archive has it.
fn inside(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// A file or directory of the host's to bring along into the guest.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Its name under [`layout::PAYLOAD`].
    pub name: String,
    /// Where it is on the host.
    pub from: PathBuf,
}

impl Payload {
    /// What is at `path` in the guest, a path of [`layout`]'s, and at `from` on the host.
    pub fn new(path: &str, from: PathBuf) -> Payload {
        Payload {
            name: layout::in_payload(path),
            from,
        }
    }
}

/// Memory of a machine, in MiB, that runs an ordinary kernel.
pub const MEMORY: u32 = 2048;

/// Virtual processors of a machine, unless it is for something special.
pub const PROCESSORS: u32 = 2;

/// What kind of machine to boot.
#[derive(Clone, Debug)]
pub struct Options {
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// What to bring along; `None` for a probe, a machine that has no disk and only starts.
    pub payload: Option<Vec<Payload>>,
    /// Image of a read-only file system (erofs) that belongs on top of the root's, with what has been
    /// installed there.
    pub layer: Option<PathBuf>,
    /// Options for the emulator; `None` for a machine without USB.
    pub emulator: Option<Vec<OsString>>,
    /// Directory to share, see [`qemu::Settings::share`].
    pub share: Option<PathBuf>,
    /// More parameters for the kernel.
    pub parameters: Vec<String>,
    /// Memory, in MiB.
    pub memory: u32,
    /// Virtual processors.
    pub processors: u32,
    /// How long each stage of the boot may take.
    pub stage_time: Duration,
}

/// The files that a machine writes.
#[derive(Clone, Debug)]
pub struct Logs {
    /// What the guest's kernel wrote to its console.
    pub console: PathBuf,
    /// What QEMU itself had to say.
    pub qemu: PathBuf,
    /// What the emulator had to say.
    pub emulator: PathBuf,
}

impl Logs {
    /// Logs of the `number`-th machine of a run, in `directory`.
    pub fn new(directory: &Path, number: u32) -> Logs {
        Logs {
            console: directory.join(format!("guest-{number}.log")),
            qemu: directory.join(format!("qemu-{number}.log")),
            emulator: directory.join(format!("emulator-{number}.log")),
        }
    }
}

/// Something that a machine did.
#[derive(Debug)]
pub enum Event {
    /// The agent sent something.
    Frame(Frame),
    /// Nothing yet.
    Nothing,
    /// The machine is gone; in words, why.
    Gone(String),
}

/// A machine that runs until this is dropped.
pub struct Machine {
    /// QEMU.
    qemu: Child,
    /// The emulator, if the machine has USB.
    emulator: Option<Child>,
    /// Connection to the agent, for writing.
    agent: UnixStream,
    /// What the agent sends; closed when the connection ends.
    frames: Receiver<Frame>,
    /// Its logs.
    pub logs: Logs,
    /// Directory of its sockets, removed with it.
    run: tempfile::TempDir,
}

/// A command that dies with this process, whatever ends it.
fn bound(program: &std::ffi::OsStr, log: &Path) -> Result<Command> {
    let log = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}

impl Machine {
    /// Boots a machine and waits until it takes a job. `tell` gets each stage, in words.
    ///
    /// # Errors
    ///
    /// If it does not get there; the message names the stage and the guest's log.
    pub fn boot(
        parts: &Parts,
        options: &Options,
        logs: Logs,
        mut tell: impl FnMut(&str),
    ) -> Result<Machine> {
        // The path of a socket may have 107 characters at most, so it does not go into the cache.
        let run = tempfile::Builder::new()
            .prefix("alrandom-")
            .tempdir_in("/tmp")
            .context("can't make a directory in /tmp")?;
        interrupt::add_directory(run.path());
        let disks: Vec<PathBuf> = match options.payload {
            Some(_) => options
                .layer
                .clone()
                .into_iter()
                .chain(parts.disks())
                .collect(),
            None => Vec::new(),
        };
        let settings = qemu::Settings {
            architecture: parts.architecture,
            accelerator: options.accelerator,
            kernel: parts.kernel(),
            ram_disk: run.path().join("ram-disk"),
            disks: disks.clone(),
            usb: options.emulator.is_some(),
            run: run.path().to_path_buf(),
            console: logs.console.clone(),
            share: options.share.clone(),
            processors: options.processors,
            memory: options.memory,
            parameters: options.parameters.clone(),
        };
        parts.write_ram_disk(&settings.ram_disk, options.payload.as_deref(), &disks)?;

        let program = parts.architecture.qemu();
        let qemu = bound(program.as_ref(), &logs.qemu)?
            .args(qemu::arguments(&settings))
            .spawn()
            .with_context(|| format!("can't start {program}"))?;
        // From here on its end ends QEMU.
        let mut qemu = Running(Some(qemu));
        let agent = connect(&qemu::agent_socket(run.path()), &mut qemu, &logs)?;
        let emulator = match &options.emulator {
            Some(arguments) => Some(start_emulator(parts, arguments, run.path(), &logs)?),
            None => None,
        };
        let mut from = agent.try_clone()?;
        let (sender, frames) = mpsc::channel();
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut from) {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        let mut machine = Machine {
            qemu: qemu.keep()?,
            emulator,
            agent,
            frames,
            logs,
            run,
        };
        machine.wait_until_ready(options.stage_time, &mut tell)?;
        Ok(machine)
    }

    /// Waits for the agent's word that a job may come.
    fn wait_until_ready(&mut self, limit: Duration, tell: &mut impl FnMut(&str)) -> Result<()> {
        let mut stage = "starting the kernel".to_string();
        tell(&stage);
        let mut deadline = Instant::now() + limit;
        loop {
            match self.event() {
                Event::Frame(Frame::Ready) => return Ok(()),
                Event::Frame(Frame::Stage(text)) => {
                    tell(&text);
                    stage = text;
                    deadline = Instant::now() + limit;
                }
                Event::Frame(other) => bail!("unexpected frame during the boot: {other:?}"),
                Event::Gone(why) => bail!(
                    "the machine did not boot: {why} while it was {stage}\n{}",
                    self.show_logs()
                ),
                Event::Nothing if Instant::now() > deadline => bail!(
                    "the machine did not boot: {} s were not enough for {stage}\n{}",
                    limit.as_secs(),
                    self.show_logs()
                ),
                Event::Nothing => (),
            }
        }
    }

    /// The last lines of the guest's log, or of QEMU's where the guest has said nothing.
    pub fn show_logs(&self) -> String {
        let shown = match fs::metadata(&self.logs.console) {
            Ok(file) if file.len() > 0 => &self.logs.console,
            _ => &self.logs.qemu,
        };
        show_log(shown)
    }

    /// Waits a moment for something to happen.
    pub fn event(&mut self) -> Event {
        self.event_within(POLL)
    }

    /// Waits for something to happen, `limit` at most.
    pub fn event_within(&mut self, limit: Duration) -> Event {
        match self.frames.recv_timeout(limit) {
            Ok(frame) => Event::Frame(frame),
            Err(RecvTimeoutError::Timeout) => {
                let emulator = self.emulator.as_mut().map(Child::try_wait);
                if let Some(Ok(Some(status))) = emulator {
                    let log = self.logs.emulator.display();
                    return Event::Gone(format!("the emulator ended ({status}; its log: {log})"));
                }
                match self.qemu.try_wait() {
                    Ok(None) => Event::Nothing,
                    _ => Event::Gone("the machine stopped".into()),
                }
            }
            // QEMU closes the connection when it ends.
            Err(RecvTimeoutError::Disconnected) => Event::Gone("the machine stopped".into()),
        }
    }

    /// Sends a frame to the agent.
    ///
    /// # Errors
    ///
    /// If the machine is gone.
    pub fn send(&mut self, frame: &Frame) -> Result<()> {
        frame.write(&mut self.agent).context("the machine is gone")
    }

    /// Another end of the connection, for a thread that only sends.
    ///
    /// # Errors
    ///
    /// If the host has run out of file descriptors.
    pub fn sender(&self) -> Result<UnixStream> {
        self.agent.try_clone().context("can't copy a socket")
    }

    /// Starts a job.
    ///
    /// # Errors
    ///
    /// If the machine is gone.
    pub fn run(&mut self, job: Job) -> Result<()> {
        self.send(&Frame::Run(job))
    }

    /// Directory of the sockets.
    pub fn run_directory(&self) -> &Path {
        self.run.path()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in [Some(&mut self.qemu), self.emulator.as_mut()]
            .into_iter()
            .flatten()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        interrupt::forget_directory(self.run.path());
    }
}

/// A process that is killed when this is dropped, unless it is kept.
struct Running(Option<Child>);

impl Running {
    /// Hands the process over.
    fn keep(mut self) -> Result<Child> {
        self.0.take().context("the process has been handed over")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Connects to a socket that QEMU is about to open.
fn connect(path: &Path, qemu: &mut Running, logs: &Logs) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            return Ok(stream);
        }
        if let Some(Ok(Some(status))) = qemu.0.as_mut().map(Child::try_wait) {
            bail!("QEMU did not start ({status})\n{}", show_log(&logs.qemu));
        }
        ensure!(
            start.elapsed() < QEMU_TIME,
            "QEMU did not open {} within {} s\n{}",
            path.display(),
            QEMU_TIME.as_secs(),
            show_log(&logs.qemu)
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts the emulator.
fn start_emulator(parts: &Parts, arguments: &[OsString], run: &Path, logs: &Logs) -> Result<Child> {
    let program = parts.programs.join("alpharng-emu");
    let mut command = bound(program.as_os_str(), &logs.emulator)?;
    for index in 0..qemu::DEVICES {
        command.arg("--usbredir").arg(qemu::usb_socket(run, index));
    }
    command
        .arg("--control-connect")
        .arg(qemu::emulator_socket(run))
        .args(arguments)
        .spawn()
        .with_context(|| format!("can't start {}", program.display()))
}

/// The path of a log and its last lines, for an error message.
pub fn show_log(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let mut shown = format!("the last lines of {}:", path.display());
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        shown.push_str(&format!("\n    {}", line.trim_end()));
    }
    shown
}
