// SPDX-License-Identifier: GPL-2.0

//! Virtual machines: QEMU, as README.md calls it, gives the device's bytes to a guest as its `/dev/hwrng`.
//!
//! The machine that the tests run in starts one of its own for that, with the same kernel and with this
//! program as its init, which needs nothing else.

use crate::support::{
    process::{
        run,
        shell, //
    },
    readme,
    tests,
    wait::{
        wait_for_exit,
        wait_until_within, //
    },
    Guest,
    Test, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::{
    io::Errno,
    mount::{
        mount,
        MountFlags, //
    },
    system::RebootCommand, //
};
use std::{
    env,
    fs::{
        self,
        File, //
    },
    io::Read,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{
        Command,
        Stdio, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![a_virtual_machine_reads_the_device_until_it_is_unplugged];

/// Where the machine is put together, and what it wrote.
const DIRECTORY: &str = "/tmp/nested";

/// In its initial ram disk: the modules to load, one a line, in this order.
const MODULES: &str = "/modules";

/// What a line with bytes that it has read begins with; they follow in hexadecimal digits.
const BYTES: &str = "nested: bytes ";

/// What a line with an error begins with.
const ERROR: &str = "nested: error: ";

/// How many bytes it shows, and how many of them a line.
const SHOWN: usize = 1024;

/// See [`SHOWN`].
const A_LINE: usize = 32;

/// How long its source may take to appear once its driver is loaded.
const SOURCE_TIME: Duration = Duration::from_secs(100);

/// How long it may take to boot, emulated by an emulated machine on a busy host.
const BOOT_TIME: Duration = Duration::from_secs(300);

/// Parameters for its kernel: to do without what takes it time.
const PARAMETERS: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr cryptomgr.notests=1 lsm=";

/// How long QEMU may take to end.
const END_TIME: Duration = Duration::from_secs(60);

/// Compressions that a kernel may have, by what a file begins with, and the programs for them.
const COMPRESSIONS: [(&[u8], &str); 3] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x1f, 0x8b], "gzip"),
];

/// Flag of finit_module(2), from the kernel's `uapi/linux/module.h`: the file is compressed.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

/// Signal that abort(3) ends a program with.
const ABORT: i32 = libc::SIGABRT;

/// The nested machine's init: loads the modules, shows bytes of `/dev/hwrng`, and reads on until the end.
pub(crate) fn init() {
    let Err(error) = show_bytes();
    println!("{ERROR}{error:#}");
    // With -no-reboot, QEMU ends.
    let _ = rustix::system::reboot(RebootCommand::Restart);
}

/// What [`init`] does. Returns only if something fails.
fn show_bytes() -> Result<std::convert::Infallible> {
    let none = MountFlags::empty();
    fs::create_dir_all("/dev")?;
    mount("devtmpfs", "/dev", "devtmpfs", none, None).context("cannot mount /dev")?;
    for path in fs::read_to_string(format!("{MODULES}/list"))?.lines() {
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        let compressed = if path.ends_with(".ko") {
            0
        } else {
            MODULE_INIT_COMPRESSED_FILE
        };
        rustix::system::finit_module(&file, c"", compressed)
            .with_context(|| format!("cannot load {path}"))?;
    }
    let start = Instant::now();
    let mut source = File::open("/dev/hwrng").context("cannot open /dev/hwrng")?;
    let mut bytes = [0; SHOWN];
    while let Err(error) = source.read_exact(&mut bytes) {
        let missing = error.raw_os_error() == Some(Errno::NODEV.raw_os_error());
        if !missing || start.elapsed() > SOURCE_TIME {
            return Err(error).context("cannot read /dev/hwrng");
        }
        thread::sleep(Duration::from_millis(100));
    }
    for part in bytes.chunks(A_LINE) {
        let digits: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{BYTES}{digits}");
    }
    loop {
        source.read_exact(&mut bytes).context("cannot read on")?;
    }
}

/// Makes the initial ram disk: this program as `/init`, and the modules that a virtio source on PCI needs.
fn make_ram_disk() -> Result<()> {
    let inside = format!("{DIRECTORY}/root{MODULES}");
    fs::create_dir_all(&inside)?;
    // Without what debuggers need: an emulated machine takes its time to unpack it.
    let program = env::current_exe()?;
    let init = format!("{DIRECTORY}/root/init");
    run(&["strip", "-o", &init, &program.to_string_lossy()])?;
    let mut list = String::new();
    for module in ["virtio_pci", "virtio_rng"] {
        for line in run(&["modprobe", "--show-depends", module])?.stdout.lines() {
            // Others are built into the kernel.
            let Some(path) = line.strip_prefix("insmod ").map(str::trim) else {
                continue;
            };
            let name = Path::new(path).file_name().unwrap_or_default();
            let name = format!("{MODULES}/{}", name.to_string_lossy());
            if !list.lines().any(|other| other == name) {
                fs::copy(path, format!("{DIRECTORY}/root{name}"))?;
                list += &format!("{name}\n");
            }
        }
    }
    fs::write(format!("{inside}/list"), list)?;
    shell(&format!(
        "cd {DIRECTORY}/root && find . | cpio --quiet -o -H newc > ../ram-disk"
    ))?;
    Ok(())
}

/// Writes the running kernel to a file, without the compression, of which nearly all of the time to boot would
/// go. Where it lies in the file to boot from is in that file's header, at offsets from the kernel's
/// `Documentation/arch/x86/boot.rst`: `setup_sects`, `payload_offset` and `payload_length`.
fn unpack_kernel(to: &str) -> Result<()> {
    let path = format!("/boot/vmlinuz-{}", run(&["uname", "-r"])?.stdout.trim());
    let file = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let number = |at: usize| -> Option<usize> {
        let bytes = file.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let payload = || -> Option<&[u8]> {
        let start = (usize::from(*file.get(0x1f1)?) + 1) * 512 + number(0x248)?;
        // The last four bytes are the size that it unpacks to.
        file.get(start..start + number(0x24c)? - 4)
    };
    let payload =
        payload().with_context(|| format!("{path} is not as the x86 boot protocol says"))?;
    let compression = COMPRESSIONS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic));
    let (_, program) = compression.with_context(|| format!("{path} is compressed in a new way"))?;
    let packed = format!("{to}.packed");
    fs::write(&packed, payload)?;
    shell(&format!("{program} -dc < {packed} > {to}"))?;
    fs::remove_file(packed)?;
    Ok(())
}

/// The bytes in what the machine wrote to its console.
fn bytes_in(console: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in console.lines().filter_map(|line| line.split_once(BYTES)) {
        let digits = line.1.trim();
        for at in (0..digits.len()).step_by(2) {
            let pair = digits.get(at..at + 2).context("a digit is missing")?;
            bytes.push(u8::from_str_radix(pair, 16)?);
        }
    }
    Ok(bytes)
}

/// A virtual machine's `/dev/hwrng` gives the bytes of the device's stream, and none twice. When the device is
/// unplugged, QEMU ends, by the assertion that README.md names.
fn a_virtual_machine_reads_the_device_until_it_is_unplugged(guest: &mut Guest) -> Result<()> {
    guest.start()?;
    make_ram_disk()?;
    unpack_kernel(&format!("{DIRECTORY}/kernel"))?;
    let file = |name: &str| format!("{DIRECTORY}/{name}");
    let readme = readme::line("Virtual machines", "qemu-system-x86_64 ...")?;
    let options = readme
        .strip_prefix("qemu-system-x86_64 ... ")
        .context("README.md does not call qemu-system-x86_64 as expected")?;
    // What stands for the dots: a machine with nothing but a console, emulated.
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,sata=off,smbus=off,usb=off,vmport=off"])
        .args(["-accel", "tcg,thread=single", "-cpu", "qemu64,-svm"])
        .args(["-m", "256M", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-kernel", &file("kernel")])
        .args(["-initrd", &file("ram-disk")])
        .args(["-append", PARAMETERS])
        .args(["-serial", &format!("file:{}", file("console"))])
        .args(options.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(file("errors"))?)
        .spawn()
        .context("cannot start QEMU")?;
    let console = || {
        let text = fs::read(file("console")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    let lines = SHOWN / A_LINE;
    let mut ended = false;
    let shown = wait_until_within(BOOT_TIME, "the nested machine to show its bytes", || {
        ended = ended || !matches!(qemu.try_wait(), Ok(None));
        ended || console().contains(ERROR) || console().matches(BYTES).count() >= lines
    });
    let text = console();
    let tail: Vec<_> = text.lines().rev().take(20).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    let errors = || fs::read_to_string(file("errors")).unwrap_or_default();
    shown.with_context(|| format!("its console ends with:\n{}", tail.join("\n")))?;
    if ended || text.contains(ERROR) {
        bail!("{}{}", errors(), tail.join("\n"));
    }

    let bytes = bytes_in(&text)?;
    ensure!(bytes.len() == SHOWN, "{} bytes came", bytes.len());
    let blocks = guest.emulator.status()?.next_block;
    let mut stream = guest.stream();
    let sent = stream.take(blocks as usize * crate::support::BLOCK);
    let mut places = Vec::new();
    // The driver asks for 64 bytes at a time: the halves of that lie in the stream in one piece.
    for piece in bytes.chunks(A_LINE) {
        let place = sent.windows(A_LINE).position(|window| window == piece);
        places.push(place.context("the virtual machine's bytes are not the device's")?);
    }
    places.sort_unstable();
    places.dedup();
    ensure!(places.len() == lines, "bytes came twice: {places:?}");

    guest.unplug()?;
    let status = wait_for_exit(&mut qemu, END_TIME)?.context("QEMU goes on without the device")?;
    ensure!(
        status.signal() == Some(ABORT) && errors().contains("len != -1"),
        "QEMU ended in another way, {status}: {}",
        errors()
    );
    Ok(())
}
