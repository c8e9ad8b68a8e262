// SPDX-License-Identifier: GPL-2.0

//! Finds out whether KVM works here, by booting the kernel with it: `/dev/kvm` may be there and yet not
//! run a guest, as in a machine that is a guest itself.

use crate::{
    machine::{
        Logs,
        Machine,
        Options,
        Parts,
        MEMORY,
        PROCESSORS, //
    },
    qemu::Accelerator,
    step::{
        Key,
        Progress, //
    },
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    env,
    fs::{
        self,
        OpenOptions, //
    },
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration, //
};

/// How long a kernel may take to start. With KVM that is a second; without a limit it may be for ever.
const LIMIT: Duration = Duration::from_secs(30);

/// What a verdict depends on: this boot of the host, and QEMU.
fn key(parts: &Parts) -> Key {
    let mut key = Key::default();
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    key.add("boot", &boot);
    key.add("kernel", parts.release.as_bytes());
    for directory in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        if let Ok(file) = fs::metadata(directory.join(parts.architecture.qemu())) {
            key.add(
                "qemu",
                format!("{} {}", file.size(), file.mtime()).as_bytes(),
            );
            break;
        }
    }
    key
}

/// What to boot with: KVM if it works. The verdict is kept in `cache`; the probe's logs go to `logs`.
///
/// # Errors
///
/// If the verdict can't be kept.
pub fn choose(parts: &Parts, cache: &Path, logs: &Path) -> Result<Accelerator> {
    if !parts.architecture.is_hosts() {
        return Ok(Accelerator::Tcg);
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    if device.is_err() {
        return Ok(Accelerator::Tcg);
    }
    let verdict = cache.join(format!("kvm-{}", key(parts).digits()));
    if let Ok(word) = fs::read_to_string(&verdict) {
        return Ok(match word.trim() {
            "works" => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        });
    }
    let mut progress = Progress::new("trying whether KVM works");
    let files = Logs {
        console: logs.join("kvm-guest.log"),
        qemu: logs.join("kvm-qemu.log"),
        emulator: logs.join("kvm-emulator.log"),
    };
    let options = Options {
        accelerator: Accelerator::Kvm,
        payload: None,
        layer: None,
        emulator: None,
        share: None,
        parameters: Vec::new(),
        memory: MEMORY,
        processors: PROCESSORS,
        stage_time: LIMIT,
    };
    let works = Machine::boot(parts, &options, files, |_| ()).is_ok();
    progress.change(if works {
        "KVM works"
    } else {
        "KVM is there but does not run a guest: QEMU emulates the processor"
    });
    progress.end("done");
    let word = if works { "works\n" } else { "fails\n" };
    fs::write(&verdict, word).with_context(|| format!("can't write {}", verdict.display()))?;
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}
