// SPDX-License-Identifier: GPL-2.0

//! The machine that a test finds: the device, the module, the kernel's log.

use super::{
    leaks::Leaks,
    log::Log,
    node::Node,
    process::{
        attempt,
        run,
        Ended, //
    },
    stream::{
        blocks_of,
        expect_all_but,
        Stream, //
    },
    usb::UsbDevice,
    wait::{
        wait_for,
        wait_until,
        wait_until_within, //
    },
};
use alpharng_emu::{
    control::{
        Client,
        Configure,
        Status, //
    },
    fault::{
        ControlAnswer,
        ControlFault,
        ControlRequest,
        Fault,
        Kind, //
    },
    stream::SourceSpec,
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs::{
        self,
        File, //
    },
    path::{
        Path,
        PathBuf, //
    },
};

/// The port that leads to the emulator, as udev names it.
pub(crate) const EMULATOR: &str = "/dev/virtio-ports/alrandom.emu";

/// How many devices the emulator can plug in.
const DEVICES: usize = 5;

/// The device that has an EHCI controller to itself (tests/vm/src/qemu.rs); the others share an xHCI
/// controller.
pub(crate) const EHCI_DEVICE: usize = 4;

/// How long it may take until a device is given up: 15 attempts of a second, and the same again for a
/// machine that is slow.
pub(crate) const GIVING_UP: std::time::Duration = std::time::Duration::from_secs(35);

/// The module's line in the log about a device that was given up.
pub(crate) const GIVEN_UP: &str = "no answer after 15 attempts";

/// Where the kernel shows that the module is loaded.
pub(crate) const LOADED: &str = "/sys/module/alrandom";

/// What each test begins with: the module not loaded, the stock serial driver loaded, no device plugged
/// in, and device 0 set to send the stream of [`Guest::seed`].
pub(crate) struct Guest {
    /// Steers the virtual device.
    pub(crate) emulator: Client<File, File>,
    /// The kernel's log since the test began.
    pub(crate) log: Log,
    /// The seed of device 0, another one for each test, so that no byte of an earlier test passes for
    /// one of this.
    pub(crate) seed: u64,
    /// The module's file.
    pub(crate) module: PathBuf,
    /// How many rounds a storm has, unless it is as many as it says.
    pub(crate) rounds: Option<u32>,
    /// Whether the machine is cleaned up after the test.
    cleans_up: bool,
}

/// The serial number of device `k`.
pub(crate) fn serial(k: usize) -> String {
    format!("GUEST-{k}")
}

/// Whether the module is loaded.
pub(crate) fn is_loaded() -> bool {
    Path::new(LOADED).exists()
}

impl Guest {
    /// Makes the clean state for the test `name`.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn new(name: &str, module: &Path) -> Result<Self> {
        let mut guest = Self {
            module: fs::canonicalize(module)?,
            cleans_up: true,
            ..Self::as_it_is(name)?
        };
        guest.allow_cdc_acm()?;
        guest.begin_anew()?;
        guest.log = Log::from_now_on()?;
        Ok(guest)
    }

    /// How many rounds something is done that fails at some moments only: as many as was asked for, or
    /// `many` where the kernel looks for bugs, or `few`.
    pub(crate) fn rounds(&self, few: u32, many: u32) -> u32 {
        let usual = if Leaks::can_be_found() { many } else { few };
        self.rounds.unwrap_or(usual)
    }

    /// Makes the state that a test begins with; for one that has several parts.
    ///
    /// # Errors
    ///
    /// If it cannot be made, for example because a file is open that the module serves.
    pub(crate) fn begin_anew(&mut self) -> Result<()> {
        self.clean_up()?;
        self.configure(Configure {
            serial: Some(serial(0)),
            ..Configure::default()
        })?;
        self.reseed()
    }

    /// Takes everything as it is for the test `name`.
    ///
    /// # Errors
    ///
    /// If there is no emulator.
    pub(crate) fn as_it_is(name: &str) -> Result<Self> {
        // Behind a suspend udev takes its name away and gives it anew, which it may still be about to do.
        wait_until("the emulator's port to have a name", || {
            Path::new(EMULATOR).exists()
        })?;
        let emulator = Client::open(EMULATOR).with_context(|| format!("cannot open {EMULATOR}"))?;
        let seed = name
            .bytes()
            .fold(0_u64, |seed, byte| seed.wrapping_mul(257) ^ u64::from(byte));
        Ok(Self {
            emulator,
            log: Log::from_now_on()?,
            seed,
            module: PathBuf::new(),
            rounds: None,
            cleans_up: false,
        })
    }

    /// Unloads the module and pulls all devices out.
    fn clean_up(&mut self) -> Result<()> {
        if is_loaded() {
            self.unload()?;
        }
        self.emulator.reset().context("cannot reset the emulator")?;
        wait_until("all devices to be gone", || {
            (0..DEVICES).all(|k| UsbDevice::find(&serial(k)).is_none())
        })
    }

    /// Ends the test: cleans up, and returns what is wrong with that (unless the test has failed
    /// before, which explains it) and with the kernel's log.
    pub(crate) fn finish(mut self, passed: bool) -> Vec<String> {
        let mut findings = Vec::new();
        if self.cleans_up {
            if let Err(error) = self.clean_up() {
                if passed {
                    findings.push(format!("cannot clean up after the test: {error:#}"));
                }
            }
        }
        findings.extend(self.log.problems());
        findings
    }

    /// Changes what device 0 is.
    ///
    /// # Errors
    ///
    /// The emulator's.
    pub(crate) fn configure(&mut self, configure: Configure) -> Result<()> {
        let done = self.emulator.configure(configure);
        done.context("the emulator does not take the configuration")
    }

    /// Sets device 0, which is not plugged in, to send the stream of [`Self::seed`] from its beginning.
    ///
    /// # Errors
    ///
    /// The emulator's.
    pub(crate) fn reseed(&mut self) -> Result<()> {
        let seed = self.seed;
        self.configure(Configure {
            source: Some(SourceSpec::Seeded { seed }),
            ..Configure::default()
        })
    }

    /// Plugs device 0 in, and waits until a driver has it.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn plug(&mut self) -> Result<UsbDevice> {
        self.plug_device(0)
    }

    /// Plugs device `k` in, and waits until a driver has it.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn plug_device(&mut self, k: usize) -> Result<UsbDevice> {
        let device = self.plug_for_nobody(k)?;
        wait_until("a driver to take the device", || {
            device.data_driver().is_some()
        })?;
        Ok(device)
    }

    /// Plugs device `k` in, whose seed is [`Self::seed`] plus `k`, and waits until the kernel knows it.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn plug_for_nobody(&mut self, k: usize) -> Result<UsbDevice> {
        if k > 0 {
            let seed = self.seed + k as u64;
            let configuration = Configure {
                serial: Some(serial(k)),
                source: Some(SourceSpec::Seeded { seed }),
                ..Configure::default()
            };
            self.device(k, |device| device.configure(configuration))?;
        }
        self.device(k, |device| device.plug())?;
        wait_for("the kernel to see the device", || {
            UsbDevice::find(&serial(k))
        })
    }

    /// Plugs device 0 in, which does not answer the request to raise DTR and RTS until its faults are
    /// cleared, and waits until that has come.
    ///
    /// # Errors
    ///
    /// If it does not come.
    pub(crate) fn plug_and_hold_line_state(&mut self) -> Result<()> {
        let hold = ControlFault::next(ControlRequest::SetControlLineState, ControlAnswer::Hold);
        self.emulator.control_fault(hold)?;
        self.emulator.plug()?;
        wait_until("the request to raise DTR and RTS", || {
            let status = self.emulator.status();
            status.is_ok_and(|status| status.faults == 0)
        })
    }

    /// Pulls device 0 out, and waits until the kernel has noticed.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn unplug(&mut self) -> Result<()> {
        self.emulator.unplug()?;
        self.wait_until_gone()
    }

    /// Waits until the kernel has noticed that device 0 is not plugged in any more.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn wait_until_gone(&self) -> Result<()> {
        wait_until("the device to be gone", || {
            UsbDevice::find(&serial(0)).is_none()
        })
    }

    /// What `ask` gets from the emulator about device `k`; what is asked elsewhere is about device 0.
    ///
    /// # Errors
    ///
    /// The emulator's.
    pub(crate) fn device<T, E: Into<anyhow::Error>>(
        &mut self,
        k: usize,
        ask: impl FnOnce(&mut Client<File, File>) -> Result<T, E>,
    ) -> Result<T> {
        let answer = ask(self.emulator.device(k));
        self.emulator.device(0);
        answer.map_err(Into::into)
    }

    /// Plugs device 0 in again, and waits until it is in use. Returns the stream from there on.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn replug(&mut self) -> Result<Stream> {
        let next = self.emulator.status()?.next_block;
        let device = self.plug_for_nobody(0)?;
        wait_until("the device to be in use", || device.is_in_use())?;
        // The first block is the start-up test's.
        Ok(Stream::from_block(self.seed, next + 1))
    }

    /// Loads the module with these parameters (`name=value`) and no others, whether that succeeds or
    /// not.
    ///
    /// # Errors
    ///
    /// If `insmod` cannot be run.
    pub(crate) fn try_to_load(&self, parameters: &[&str]) -> Result<Ended> {
        // As modprobe would; insmod does not.
        run(&["modprobe", "usbcore"])?;
        let module = self.module.to_string_lossy();
        attempt(&[&["insmod", &*module], parameters].concat())
    }

    /// Loads the module with these parameters (`name=value`) and no others.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub(crate) fn load_with_hwrng(&self, parameters: &[&str]) -> Result<()> {
        let ended = self.try_to_load(parameters)?;
        ensure!(ended.success, "insmod: {}", ended.stderr.trim());
        Ok(())
    }

    /// Loads the module with these parameters (`name=value`), and so that the kernel itself does not
    /// read from it: what is read is the test's alone.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub(crate) fn load(&self, parameters: &[&str]) -> Result<()> {
        self.load_with_hwrng(&[&["hwrngQuality=0"], parameters].concat())
    }

    /// Unloads the module.
    ///
    /// # Errors
    ///
    /// If it cannot be unloaded.
    pub(crate) fn unload(&self) -> Result<()> {
        run(&["rmmod", "alrandom"])?;
        Ok(())
    }

    /// Plugs device 0 in, loads the module, and opens the node.
    ///
    /// # Errors
    ///
    /// If one of them fails.
    pub(crate) fn start(&mut self) -> Result<Node> {
        self.start_with(&[])
    }

    /// As [`Self::start`], with parameters for the module (`name=value`).
    ///
    /// # Errors
    ///
    /// If one of them fails.
    pub(crate) fn start_with(&mut self, parameters: &[&str]) -> Result<Node> {
        self.plug()?;
        self.load(parameters)?;
        Node::open()
    }

    /// The stream that a device delivers that was plugged in once.
    pub(crate) fn stream(&self) -> Stream {
        Stream::of(self.seed)
    }

    /// Waits until the device idles because all of the module's blocks are full, and returns how many
    /// blocks it has sent.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn wait_until_full(&mut self) -> Result<u64> {
        Ok(self.wait_until_idle(0)?.blocks)
    }

    /// As [`Self::wait_until_full`] for device `k`; returns its numbers from then on.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn wait_until_idle(&mut self, k: usize) -> Result<Status> {
        // No command for a while, behind one answer at least.
        let mut last = self.device(k, |device| device.status())?;
        let mut same = 0;
        wait_until("the device to idle", || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let Ok(status) = self.device(k, |device| device.status()) else {
                return false;
            };
            let level = (status.blocks, status.next_block) == (last.blocks, last.next_block);
            same = if level { same + 1 } else { 0 };
            last = status;
            same >= 5 && last.blocks > 0 && last.pending == 0
        })?;
        Ok(last)
    }

    /// Waits until the module has given device 0 up: until nothing at all has come from the host for two
    /// seconds, longer than an attempt takes. Returns the device's numbers from then on.
    ///
    /// # Errors
    ///
    /// If that does not happen.
    pub(crate) fn wait_until_given_up(&mut self) -> Result<Status> {
        let mut last = self.emulator.status()?;
        wait_until_within(GIVING_UP, "the device to be given up", || {
            std::thread::sleep(std::time::Duration::from_secs(2));
            self.emulator.status().is_ok_and(|status| {
                let level = status == last;
                last = status;
                level
            })
        })?;
        Ok(last)
    }

    /// Waits until the module is full, and has the device answer no command from then on. Returns the
    /// index of the first block that does not come; those before it are ready.
    ///
    /// # Errors
    ///
    /// If the module does not become full.
    pub(crate) fn fall_silent(&mut self) -> Result<u64> {
        self.wait_until_full()?;
        let next = self.emulator.status()?.next_block;
        self.fall_silent_at(next, 0)?;
        Ok(next)
    }

    /// Has the device leave `count` commands unanswered (all if 0) from the one for block `first` on.
    ///
    /// # Errors
    ///
    /// If that block is of the past.
    pub(crate) fn fall_silent_at(&mut self, first: u64, count: u64) -> Result<()> {
        self.log.announce("no complete answer in time");
        let fault = Fault::at(first, Kind::Silent).count(count);
        self.emulator.fault(fault)?;
        Ok(())
    }

    /// Has the device answer again that has fallen silent at block `first`. Returns the blocks that
    /// cannot come, or need not: the one behind the silence tells the module that it is over.
    ///
    /// # Errors
    ///
    /// The emulator's.
    pub(crate) fn answer_again(&mut self, first: u64) -> Result<Vec<u64>> {
        self.emulator.clear_faults()?;
        let next = self.emulator.status()?.next_block;
        Ok((first..=next + 1).collect())
    }

    /// Checks that `bytes`, all that was read from the first on, are whole blocks of the stream in
    /// their order (only the last may be cut short), and that none is left out but those in `missing`,
    /// which need not be left out.
    ///
    /// # Errors
    ///
    /// If they are not.
    pub(crate) fn expect_stream_but(&mut self, bytes: &[u8], missing: &[u64]) -> Result<()> {
        let sent = self.emulator.status()?.next_block;
        expect_all_but(&blocks_of(self.seed, sent, bytes)?, 1, missing)
    }

    /// Removes the stock serial driver, and keeps it from coming back by hot-plug: its file is gone.
    ///
    /// # Errors
    ///
    /// If it is in use.
    pub(crate) fn block_cdc_acm(&self) -> Result<()> {
        run(&["modprobe", "-r", "cdc_acm"])?;
        let (file, aside) = cdc_acm_file()?;
        fs::rename(&file, &aside).with_context(|| format!("cannot move {file}"))
    }

    /// Loads the stock serial driver, and lets hot-plug load it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn allow_cdc_acm(&self) -> Result<()> {
        let (file, aside) = cdc_acm_file()?;
        if Path::new(&aside).exists() {
            fs::rename(&aside, &file).with_context(|| format!("cannot move {aside}"))?;
        }
        run(&["modprobe", "cdc_acm"])?;
        Ok(())
    }
}

/// The path of the stock serial driver's file, and where it is while it is blocked.
fn cdc_acm_file() -> Result<(String, String)> {
    let file = run(&["modinfo", "-n", "cdc_acm"])?.stdout.trim().to_owned();
    let aside = format!("{file}.aside");
    Ok((file, aside))
}
