// SPDX-License-Identifier: GPL-2.0

//! The guest's init, `vm-agent`: brings the machine up, then runs what the host asks for.
//!
//! It is `/init` of the initial ram disk and stays process 1. First it loads the few modules that the
//! root's disk needs and puts an overlay in memory over that disk, so that nothing a test does outlives
//! the machine. In the new root it starts udev, which finds and loads everything else as on any other
//! machine; there is no systemd, for it would take most of the time until a test runs. Then a second
//! process of this program serves the host, and process 1 buries the dead.
//!
//! Where the host asks for systemd, process 1 becomes that instead, and the program that serves the host
//! is one of its services.

use alrandom_vm::{
    frame::{
        self,
        Frame,
        Job,
        Size, //
    },
    layout,
    systemd, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::{
    fs::{
        chmod,
        Mode, //
    },
    mount::{
        mount,
        mount_bind,
        mount_move,
        MountFlags, //
    },
    process::{
        chroot,
        WaitOptions, //
    },
    pty::OpenptFlags,
    system::RebootCommand,
    termios::Winsize, //
};
use std::{
    env,
    ffi::CString,
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::{
        self,
        ErrorKind,
        Read,
        Write, //
    },
    os::{
        fd::{
            AsFd,
            OwnedFd, //
        },
        unix::process::{
            CommandExt,
            ExitStatusExt, //
        }, //
    },
    path::Path,
    process::{
        Child,
        Command,
        Stdio, //
    },
    sync::{
        mpsc::{
            self,
            Receiver,
            Sender, //
        },
        Arc,
        Mutex,
        MutexGuard, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Flag of finit_module(2), from the kernel's `uapi/linux/module.h`: the file is compressed.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// How long a device that the boot needs may take to appear: it is there at once, unless the host is
/// very busy.
const DEVICE_TIME: Duration = Duration::from_secs(60);

/// How long output may still come after the job's end. It ends with the job, unless the job has left
/// something running that holds its output open.
const LAST_OUTPUT_TIME: Duration = Duration::from_secs(2);

/// What a port that is gone says: `ENODEV`.
const NO_DEVICE: i32 = rustix::io::Errno::NODEV.raw_os_error();

/// Console log level (`dmesg -n`) that lets everything through.
const LOG_ALL: &str = "8";

fn main() {
    let result = match env::args().nth(1).as_deref() {
        Some("serve") => standard_files().and_then(|(from, to)| serve(from, to)),
        Some(systemd::SERVE) => serve_as_service(),
        _ if std::process::id() == 1 => init(),
        _ => Err(anyhow::anyhow!("this is the guest's init; it runs there")),
    };
    if let Err(error) = result {
        eprintln!("vm-agent: {error:#}");
    }
    if std::process::id() == 1 {
        rustix::fs::sync();
        // QEMU is told to end instead of a restart, which every machine can do; not so power off.
        let _ = rustix::system::reboot(RebootCommand::Restart);
    }
}

/// Mounts a file system of the kind `kind` on `target`, which is made if need be.
fn mount_new(kind: &str, source: &str, target: &str, flags: MountFlags, data: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("can't make {target}"))?;
    let data = CString::new(data)?;
    mount(source, target, kind, flags, data.as_c_str())
        .with_context(|| format!("can't mount {kind} on {target}"))
}

/// Waits until `find` finds something.
fn wait_for<T>(what: &str, find: impl Fn() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        ensure!(start.elapsed() < DEVICE_TIME, "no {what} has appeared");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The virtio port named `name`, opened.
fn open_port(name: &str) -> Result<File> {
    let device = wait_for(&format!("virtio port {name}"), || {
        let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|port| {
            let found = fs::read_to_string(port.path().join("name")).ok()?;
            let device = Path::new("/dev").join(port.file_name());
            (found.trim() == name && device.exists()).then_some(device)
        })
    })?;
    let port = OpenOptions::new().read(true).write(true).open(&device);
    port.with_context(|| format!("can't open {}", device.display()))
}

/// Loads the modules that the host has put into the initial ram disk, in their order.
fn load_modules() -> Result<()> {
    for path in fs::read_to_string(layout::MODULE_LIST)
        .unwrap_or_default()
        .lines()
    {
        let file = File::open(path).with_context(|| format!("can't open {path}"))?;
        let flags = if path.ends_with(".ko") {
            0
        } else {
            MODULE_INIT_COMPRESSED_FILE
        };
        rustix::system::finit_module(&file, c"", flags)
            .with_context(|| format!("can't load {path}"))?;
    }
    Ok(())
}

/// Process 1: boots and then waits for all processes, and for the one that serves the host to end.
fn init() -> Result<()> {
    let none = MountFlags::empty();
    mount_new("devtmpfs", "dev", "/dev", none, "")?;
    mount_new("proc", "proc", "/proc", none, "")?;
    mount_new("sysfs", "sys", "/sys", none, "")?;
    let mut port = open_port(frame::PORT)?;
    let parameters = fs::read_to_string("/proc/cmdline").context("can't read /proc/cmdline")?;
    let under_systemd = parameters
        .split_whitespace()
        .any(|parameter| parameter == systemd::PARAMETER);
    let result = if under_systemd {
        become_systemd(&mut port)
    } else {
        boot(&mut port)
    };
    if let Err(error) = &result {
        // The host shows the last stage, so this is how the reason gets there.
        let _ = Frame::Stage(format!("failed: {error:#}")).write(&mut port);
    }
    result?;

    let server = Command::new(layout::AGENT)
        .arg("serve")
        .stdin(port.try_clone()?)
        .stdout(port)
        .spawn()
        .context("can't start the process that serves the host")?;
    loop {
        // Orphans are handed to process 1, which has to wait for them.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if pid.as_raw_nonzero().get() as u32 == server.id() => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => (),
            Err(error) => return Err(error).context("can't wait for processes"),
        }
    }
}

/// Enters the root and becomes systemd. Returns only if that fails. The port is closed then, for only one
/// process can have it open, and the agent's service is the next.
fn become_systemd(port: &mut File) -> Result<()> {
    enter_root(port)?;
    systemd::install(Path::new("/"))?;
    Frame::Stage("starting systemd and waiting for the agent's service".into()).write(port)?;
    let [program, arguments @ ..] = systemd::INIT;
    // What it says goes to a log: in plain text.
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("SYSTEMD_COLORS", "0")
        .env("TERM", "dumb")
        .exec();
    Err(error).with_context(|| format!("can't start {program}"))
}

/// The agent as a service of systemd's, which has started everything else.
fn serve_as_service() -> Result<()> {
    let mut port = open_port(frame::PORT)?;
    Frame::Stage("waiting for udev to settle".into()).write(&mut port)?;
    settle()?;
    Frame::Ready
        .write(&mut port)
        .context("can't tell the host")?;
    serve(port.try_clone()?, port)
}

/// Everything until a job can run. Tells the host about each stage.
fn boot(port: &mut File) -> Result<()> {
    if !Path::new(layout::MODULE_LIST).exists() {
        // A machine without a disk is a probe of whether this kernel boots at all.
        return Frame::Ready.write(port).context("can't answer the host");
    }
    enter_root(port)?;
    let mut stage = |text: &str| Frame::Stage(text.to_string()).write(port);
    stage("starting udev")?;
    let udevd = "/usr/lib/systemd/systemd-udevd";
    run(&[udevd, "--daemon", "--resolve-names=never"])?;
    for kind in ["--type=subsystems", "--type=devices"] {
        run(&["/usr/bin/udevadm", "trigger", kind, "--action=add"])?;
    }
    stage("waiting for udev to settle")?;
    settle()?;
    run(&["/usr/sbin/ip", "link", "set", "lo", "up"])?;
    Frame::Ready.write(port).context("can't tell the host")
}

/// Waits until udev has done all there is to do. What the kernel says from here on belongs to the job: all
/// of it goes into the log.
fn settle() -> Result<()> {
    run(&["/usr/bin/udevadm", "settle", "--timeout=600"])?;
    fs::write("/proc/sys/kernel/printk", LOG_ALL).context("can't set the console's log level")
}

/// Mounts the root and what belongs into it, makes it this process's root, and runs what the host has sent
/// along to be run there first.
fn enter_root(port: &mut File) -> Result<()> {
    let none = MountFlags::empty();
    let mut stage = |text: &str| Frame::Stage(text.to_string()).write(port);
    stage("loading the modules for the root's disk")?;
    load_modules()?;

    stage("mounting the root")?;
    let disks = fs::read_to_string(layout::DISK_LIST).context("can't read the list of disks")?;
    let mut lower = Vec::new();
    for disk in disks.lines() {
        wait_for(disk, || Path::new(disk).exists().then_some(()))?;
        let target = format!("/lower{}", lower.len());
        mount_new("erofs", disk, &target, MountFlags::RDONLY, "")?;
        lower.push(target);
    }
    mount_new("tmpfs", "tmpfs", "/memory", none, "mode=0755")?;
    fs::create_dir_all("/memory/upper")?;
    fs::create_dir_all("/memory/work")?;
    let lower = lower.join(":");
    let layers = format!("lowerdir={lower},upperdir=/memory/upper,workdir=/memory/work");
    mount_new("overlay", "root", "/root", none, &layers)?;
    for point in ["/dev", "/proc", "/sys"] {
        mount_move(point, format!("/root{point}"))
            .with_context(|| format!("can't move {point}"))?;
    }
    let inside = format!("/root{}", layout::PAYLOAD);
    fs::create_dir_all(&inside)?;
    mount_bind(layout::PAYLOAD, &inside).context("can't show the payload in the root")?;
    if Path::new(layout::MODULES).exists() {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let inside = format!("/root/usr/lib/modules/{release}");
        fs::create_dir_all(&inside)?;
        mount_bind(layout::MODULES, &inside).context("can't show the kernel's modules")?;
    }
    env::set_current_dir("/root")?;
    mount_move(".", "/").context("can't make the root the root")?;
    chroot(".").context("can't enter the root")?;
    env::set_current_dir("/")?;

    let hidden = MountFlags::NOSUID | MountFlags::NODEV;
    mount_new("tmpfs", "tmpfs", "/run", hidden, "mode=0755")?;
    mount_new("tmpfs", "tmpfs", "/tmp", hidden, "mode=1777")?;
    mount_new("tmpfs", "tmpfs", "/dev/shm", hidden, "mode=1777")?;
    mount_new(
        "devpts",
        "devpts",
        "/dev/pts",
        none,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    mount_new("debugfs", "debugfs", "/sys/kernel/debug", none, "")?;
    mount_new("configfs", "configfs", "/sys/kernel/config", none, "")
        .or_else(|_| anyhow::Ok(()))?;
    chmod("/run", Mode::from_raw_mode(0o755))?;
    rustix::system::sethostname(b"alpharng")?;

    if Path::new(layout::BEFORE_INIT).exists() {
        stage("running the command that comes before the init")?;
        run(&["/bin/bash", "-e", layout::BEFORE_INIT])?;
    }
    Ok(())
}

/// Runs a program of the boot, with its output on the console.
fn run(argv: &[&str]) -> Result<()> {
    let status = environment(&mut Command::new(argv[0]))
        .args(&argv[1..])
        .status()
        .with_context(|| format!("can't start {}", argv[0]))?;
    ensure!(status.success(), "{}: {status}", argv.join(" "));
    Ok(())
}

/// Gives a program the environment that a root shell has.
fn environment(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("SHELL", "/bin/bash")
        .env("USER", "root")
}

/// The port to the host. Where its driver lets go of it and takes it again, it is opened anew.
///
/// A job may have the driver do that: behind a suspend, a port that Linux 7.3.4 knows as closed by the
/// host stays so otherwise, for the driver asks before it can hear the answer.
#[derive(Clone)]
struct Port(Arc<Mutex<Opened>>);

/// The port as it is open now.
struct Opened {
    /// The file, for reading.
    from: Arc<File>,
    /// The same, for writing.
    to: Arc<File>,
}

impl Port {
    /// A port that is open in these files.
    fn new(from: File, to: File) -> Port {
        let (from, to) = (Arc::new(from), Arc::new(to));
        Port(Arc::new(Mutex::new(Opened { from, to })))
    }

    /// The files.
    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Opens the port anew, unless somebody has done so since it was open in `file`.
    fn reopen(&self, file: &Arc<File>) -> io::Result<()> {
        let mut opened = self.lock();
        if Arc::ptr_eq(file, &opened.from) || Arc::ptr_eq(file, &opened.to) {
            // Going, it may still be found and not be opened.
            let port = wait_for(frame::PORT, || open_port(frame::PORT).ok());
            let port = Arc::new(port.map_err(io::Error::other)?);
            (opened.from, opened.to) = (port.clone(), port);
        }
        Ok(())
    }

    /// Does `transfer` with the file that `choose` finds, again each time the port was gone.
    fn transfer(
        &self,
        choose: fn(&Opened) -> &Arc<File>,
        mut transfer: impl FnMut(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let file = choose(&self.lock()).clone();
            match transfer(&file) {
                Err(error) if error.raw_os_error() == Some(NO_DEVICE) => self.reopen(&file)?,
                result => return result,
            }
        }
    }
}

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transfer(|opened| &opened.from, |mut file| file.read(buffer))
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transfer(|opened| &opened.to, |mut file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port to the host, for several threads to write to.
#[derive(Clone)]
struct Host(Arc<Mutex<Port>>);

impl Host {
    /// Sends a frame. With the host gone there is nothing left to do, so that ends the machine.
    fn send(&self, frame: &Frame) {
        let mut port = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        if frame.write(&mut *port).is_err() {
            std::process::exit(1);
        }
    }
}

/// What goes to a running job.
enum Input {
    /// Bytes to read.
    Bytes(Vec<u8>),
    /// No more bytes.
    End,
    /// A new size of its terminal.
    Resize(Size),
}

/// Standard input and output, as files.
fn standard_files() -> Result<(File, File)> {
    Ok((
        std::io::stdin().as_fd().try_clone_to_owned()?.into(),
        std::io::stdout().as_fd().try_clone_to_owned()?.into(),
    ))
}

/// Does what the host says, until the host closes the port.
fn serve(from: File, to: File) -> Result<()> {
    let mut from = Port::new(from, to);
    let host = Host(Arc::new(Mutex::new(from.clone())));
    let mut input: Option<Sender<Input>> = None;
    while let Some(frame) = Frame::read(&mut from)? {
        // A job that has ended does not take its input any more: that is no error.
        let feed = |item| {
            if let Some(input) = &input {
                let _ = input.send(item);
            }
        };
        match frame {
            Frame::Run(job) => {
                let (sender, receiver) = mpsc::channel();
                input = Some(sender);
                let host = host.clone();
                thread::spawn(move || {
                    let status = run_job(&job, &host, receiver).unwrap_or_else(|error| {
                        host.send(&Frame::Stderr(format!("{error:#}\n").into_bytes()));
                        127
                    });
                    host.send(&Frame::Exit(status));
                });
            }
            Frame::Stdin(bytes) => feed(Input::Bytes(bytes)),
            Frame::StdinEnd => feed(Input::End),
            Frame::Resize(size) => feed(Input::Resize(size)),
            Frame::Sysrq(letter) => fs::write("/proc/sysrq-trigger", [letter])?,
            other => bail!("unexpected frame from the host: {other:?}"),
        }
    }
    Ok(())
}

/// Sends what can be read from `from`, as frames, until its end.
fn forward(mut from: impl Read, host: &Host, frame: fn(Vec<u8>) -> Frame) {
    let mut buffer = [0; 16384];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => host.send(&frame(buffer[..n].to_vec())),
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            // A terminal reports its last user's end as EIO.
            Err(_) => return,
        }
    }
}

/// Runs a job to its end and returns its exit status.
fn run_job(job: &Job, host: &Host, input: Receiver<Input>) -> Result<u8> {
    ensure!(!job.argv.is_empty(), "no program to run");
    let (ended, all_ended) = mpsc::channel::<()>();
    let mut child = if let Some(size) = job.terminal {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)
            .context("can't open a terminal")?;
        rustix::pty::unlockpt(&master)?;
        resize(&master, size)?;
        let user =
            rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        // setsid(1) makes the terminal the controlling one: job control and Ctrl-C need that.
        let mut command = Command::new("/usr/bin/setsid");
        environment(&mut command)
            .args(["--ctty", "--"])
            .args(&job.argv)
            .envs(job.env.iter().cloned())
            .current_dir("/root")
            .stdin(user.try_clone()?)
            .stdout(user.try_clone()?)
            .stderr(user);
        let child = command.spawn().context("can't start the job")?;
        // The command has copies of the terminal's user side, which would keep it open.
        drop(command);
        let output = File::from(master.try_clone()?);
        let host = host.clone();
        thread::spawn(move || {
            forward(output, &host, Frame::Stdout);
            drop(ended);
        });
        thread::spawn(move || feed_terminal(&master, &input));
        child
    } else {
        let mut child = environment(&mut Command::new(&job.argv[0]))
            .args(&job.argv[1..])
            .envs(job.env.iter().cloned())
            .current_dir("/root")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {}", job.argv[0]))?;
        if let (Some(output), host, ended) = (child.stdout.take(), host.clone(), ended.clone()) {
            thread::spawn(move || {
                forward(output, &host, Frame::Stdout);
                drop(ended);
            });
        }
        if let (Some(output), host) = (child.stderr.take(), host.clone()) {
            thread::spawn(move || {
                forward(output, &host, Frame::Stderr);
                drop(ended);
            });
        }
        if let Some(to) = child.stdin.take() {
            thread::spawn(move || feed_pipe(to, &input));
        }
        child
    };
    let status = exit_status(&mut child)?;
    // Nothing is ever sent: what ends the wait is the end of the last sender.
    let _ = all_ended.recv_timeout(LAST_OUTPUT_TIME);
    Ok(status)
}

/// Waits for the job, and returns what a shell would have in `$?`.
fn exit_status(child: &mut Child) -> Result<u8> {
    let status = child.wait().context("can't wait for the job")?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}

/// Sets a terminal's size.
fn resize(terminal: &OwnedFd, size: Size) -> Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).context("can't set the terminal's size")
}

/// Writes the job's input to its terminal, until either is gone.
fn feed_terminal(master: &OwnedFd, input: &Receiver<Input>) {
    let Ok(mut to) = master.try_clone().map(File::from) else {
        return;
    };
    for item in input {
        let done = match item {
            Input::Bytes(bytes) => to.write_all(&bytes).is_err(),
            // End of file, as typed.
            Input::End => to.write_all(&[4]).is_err(),
            Input::Resize(size) => resize(master, size).is_err(),
        };
        if done {
            return;
        }
    }
}

/// Writes the job's input to its pipe, until either is gone.
fn feed_pipe(mut to: impl Write, input: &Receiver<Input>) {
    for item in input {
        match item {
            Input::Bytes(bytes) if to.write_all(&bytes).is_ok() => (),
            Input::Resize(_) => (),
            Input::Bytes(_) | Input::End => return,
        }
    }
}
