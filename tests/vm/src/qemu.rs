// SPDX-License-Identifier: GPL-2.0

//! QEMU's command line.

use crate::{
    architecture::Architecture,
    frame, //
};
use std::path::{
    Path,
    PathBuf, //
};

/// USB devices that the emulator may plug in at most.
pub const DEVICES: usize = 5;

/// Index of the device that has an EHCI controller to itself: a port there keeps its state in a suspend of
/// the machine's devices. The others share an xHCI controller, whose state is lost then.
pub const EHCI_DEVICE: usize = 4;

/// Name of the virtio port that tests talk to the emulator over.
pub const EMULATOR_PORT: &str = "alrandom.emu";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU's emulator: slower by an order of magnitude, but works everywhere.
    Tcg,
}

/// A machine to start.
#[derive(Debug)]
pub struct Settings {
    /// Its architecture.
    pub architecture: Architecture,
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// The kernel's `vmlinuz`.
    pub kernel: PathBuf,
    /// The initial ram disk.
    pub ram_disk: PathBuf,
    /// Images of the root's file systems, the uppermost first; never written to. Without any the machine
    /// only starts.
    pub disks: Vec<PathBuf>,
    /// Whether it gets USB and the sockets for the emulator.
    pub usb: bool,
    /// Directory for sockets.
    pub run: PathBuf,
    /// File for what the kernel writes to its console.
    pub console: PathBuf,
    /// Directory that the guest can mount, read-only, by 9p under the tag `host`.
    pub share: Option<PathBuf>,
    /// Virtual processors.
    pub processors: u32,
    /// Memory, in MiB.
    pub memory: u32,
    /// More parameters for the kernel.
    pub parameters: Vec<String>,
}

/// Path of the socket of USB device `index`.
pub fn usb_socket(run: &Path, index: usize) -> PathBuf {
    run.join(format!("usb{index}.sock"))
}

/// Path of the socket that the emulator's control protocol goes over.
pub fn emulator_socket(run: &Path) -> PathBuf {
    run.join("emu.sock")
}

/// Path of the socket to the guest's agent.
pub fn agent_socket(run: &Path) -> PathBuf {
    run.join("agent.sock")
}

/// Path of the socket for QEMU's own control protocol (QMP): memory dumps and the like.
pub fn qmp_socket(run: &Path) -> PathBuf {
    run.join("qmp.sock")
}

/// A path as part of a QEMU option, where a comma ends a value unless there are two.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// QEMU's arguments for a machine.
pub fn arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_string(), value]);
    let socket =
        |id: &str, path: &Path| format!("socket,id={id},path={},server=on,wait=off", escape(path));

    let architecture = settings.architecture;
    add("-machine", architecture.machine().into());
    match settings.accelerator {
        Accelerator::Kvm => add("-accel", "kvm".into()),
        // One thread runs all the virtual processors in turn. With a thread for each, one of them
        // now and then runs code that another has just patched (static calls and branches), and
        // the kernel dies of an invalid instruction.
        Accelerator::Tcg => add("-accel", "tcg,thread=single".into()),
    }
    add("-cpu", architecture.processor(settings.accelerator).into());
    add("-smp", settings.processors.to_string());
    add("-m", format!("{}M", settings.memory));
    for option in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        arguments.push(option.into());
    }
    let mut add = |option: &str, value: String| arguments.extend([option.to_string(), value]);
    add("-display", "none".into());
    add("-kernel", settings.kernel.to_string_lossy().into_owned());
    add("-initrd", settings.ram_disk.to_string_lossy().into_owned());
    // An oops ends the machine, for what it leaves behind (locks held for ever) proves nothing more.
    let mut parameters = format!(
        "console={} loglevel=4 oops=panic panic=-1 mitigations=off",
        architecture.console()
    );
    // The kernel watches the clock by having one processor wait for another to read it, without end where
    // both have one thread and a busy host.
    if (architecture, settings.accelerator) == (Architecture::Amd64, Accelerator::Tcg) {
        parameters.push_str(" tsc=nowatchdog");
    }
    for parameter in &settings.parameters {
        parameters.push(' ');
        parameters.push_str(parameter);
    }
    add("-append", parameters);

    add(
        "-chardev",
        format!("file,id=console,path={}", escape(&settings.console)),
    );
    add("-serial", "chardev:console".into());
    add("-chardev", socket("qmp", &qmp_socket(&settings.run)));
    add("-mon", "chardev=qmp,mode=control".into());

    add("-device", "virtio-serial-pci".into());
    add("-chardev", socket("agent", &agent_socket(&settings.run)));
    add(
        "-device",
        format!("virtserialport,chardev=agent,name={}", frame::PORT),
    );
    for (index, disk) in settings.disks.iter().enumerate() {
        add(
            "-blockdev",
            format!(
                "driver=file,node-name=disk{index},read-only=on,filename={}",
                escape(disk)
            ),
        );
        add("-device", format!("virtio-blk-pci,drive=disk{index}"));
    }
    if let Some(share) = &settings.share {
        add(
            "-fsdev",
            format!(
                "local,id=host,readonly=on,security_model=none,path={}",
                escape(share)
            ),
        );
        add("-device", "virtio-9p-pci,fsdev=host,mount_tag=host".into());
    }
    if settings.usb {
        add("-device", "qemu-xhci,id=xhci,p2=8,p3=8".into());
        add("-device", "usb-ehci,id=ehci".into());
        for index in 0..DEVICES {
            let id = format!("usb{index}");
            add("-chardev", socket(&id, &usb_socket(&settings.run, index)));
            let bus = if index == EHCI_DEVICE {
                "ehci.0"
            } else {
                "xhci.0"
            };
            add("-device", format!("usb-redir,chardev={id},bus={bus}"));
        }
        add(
            "-chardev",
            socket("emulator", &emulator_socket(&settings.run)),
        );
        add(
            "-device",
            format!("virtserialport,chardev=emulator,name={EMULATOR_PORT}"),
        );
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with everything.
    fn settings() -> Settings {
        Settings {
            architecture: Architecture::Amd64,
            accelerator: Accelerator::Tcg,
            kernel: "/k".into(),
            ram_disk: "/r".into(),
            disks: vec!["/a,b/disk".into(), "/lower".into()],
            usb: true,
            run: "/run".into(),
            console: "/log".into(),
            share: Some("/s".into()),
            processors: 2,
            memory: 2048,
            parameters: vec!["one=1".into(), "two".into()],
        }
    }

    /// The values of all options named `option`.
    fn values(arguments: &[String], option: &str) -> Vec<String> {
        let pairs = arguments.iter().zip(&arguments[1..]);
        let found = pairs.filter(|(name, _)| *name == option);
        found.map(|(_, value)| value.clone()).collect()
    }

    #[test]
    fn five_usb_sockets_and_the_emulators_port_are_wired() {
        let arguments = arguments(&settings());
        let devices = values(&arguments, "-device");
        let sockets = values(&arguments, "-chardev");
        for (index, bus) in ["xhci.0", "xhci.0", "xhci.0", "xhci.0", "ehci.0"]
            .into_iter()
            .enumerate()
        {
            assert!(devices.contains(&format!("usb-redir,chardev=usb{index},bus={bus}")));
            assert!(sockets.contains(&format!(
                "socket,id=usb{index},path=/run/usb{index}.sock,server=on,wait=off"
            )));
        }
        assert!(devices.contains(&"virtserialport,chardev=emulator,name=alrandom.emu".to_string()));
        assert!(sockets
            .contains(&"socket,id=emulator,path=/run/emu.sock,server=on,wait=off".to_string()));
    }

    #[test]
    fn without_usb_there_is_neither_controller_nor_socket_for_it() {
        let arguments = arguments(&Settings {
            usb: false,
            ..settings()
        });
        let text = arguments.join(" ");
        for word in ["usb-redir", "xhci", "ehci", "emu.sock"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }

    #[test]
    fn the_disks_are_read_only_in_their_order_and_their_commas_are_doubled() {
        let disks = values(&arguments(&settings()), "-blockdev");
        assert_eq!(
            disks,
            [
                "driver=file,node-name=disk0,read-only=on,filename=/a,,b/disk",
                "driver=file,node-name=disk1,read-only=on,filename=/lower"
            ]
        );
    }

    #[test]
    fn each_accelerator_has_its_processor() {
        let tcg = arguments(&settings());
        assert_eq!(values(&tcg, "-accel"), ["tcg,thread=single"]);
        assert_ne!(values(&tcg, "-cpu"), ["host"]);
        assert!(values(&tcg, "-append")[0].contains(" tsc=nowatchdog "));
        let arm = arguments(&Settings {
            architecture: Architecture::Arm64,
            ..settings()
        });
        assert_eq!(values(&arm, "-cpu"), ["cortex-a72"]);
        assert!(values(&arm, "-append")[0].contains("console=ttyAMA0 "));
        let kvm = arguments(&Settings {
            accelerator: Accelerator::Kvm,
            ..settings()
        });
        assert_eq!(values(&kvm, "-accel"), ["kvm"]);
        assert_eq!(values(&kvm, "-cpu"), ["host"]);
        assert!(!values(&kvm, "-append")[0].contains("tsc="));
    }

    #[test]
    fn an_oops_ends_the_machine_and_more_parameters_follow() {
        let append = values(&arguments(&settings()), "-append").remove(0);
        assert!(append.contains(" oops=panic panic=-1 "), "{append}");
        assert!(append.ends_with(" one=1 two"), "{append}");
        assert!(arguments(&settings()).contains(&"-no-reboot".to_string()));
    }
}
