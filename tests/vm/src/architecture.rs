// SPDX-License-Identifier: GPL-2.0

//! The architectures that machines can have, and what differs between them.

use crate::qemu::Accelerator;
use anyhow::{
    bail,
    Result, //
};

/// The processor that QEMU emulates for [`Architecture::Amd64`]: what every 64-bit processor of the last
/// 15 years can do, and an instruction for random numbers, so that the kernel's own generator is ready at
/// once. `max` also has what QEMU 7.2 emulates wrongly, and makes udev load cryptography that takes
/// seconds to test itself.
const AMD64_PROCESSOR: &str = "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand";

/// The processor that QEMU emulates for [`Architecture::Arm64`]: that of the Raspberry Pi 4.
const ARM64_PROCESSOR: &str = "cortex-a72";

/// An architecture, by Debian's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// The one that the test machine's own root is of.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// The architecture with Debian's name `name`.
    ///
    /// # Errors
    ///
    /// If no machine can have it.
    pub fn parse(name: &str) -> Result<Architecture> {
        Ok(match name {
            "amd64" => Architecture::Amd64,
            "arm64" => Architecture::Arm64,
            _ => bail!("no machine of architecture {name} can be made"),
        })
    }

    /// Debian's name.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    /// QEMU's program, as Debian names it.
    pub fn qemu(self) -> &'static str {
        match self {
            Architecture::Amd64 => "qemu-system-x86_64",
            Architecture::Arm64 => "qemu-system-aarch64",
        }
    }

    /// QEMU's machine. Without disks and buses that nothing is plugged into: their drivers take long to
    /// load.
    pub fn machine(self) -> &'static str {
        match self {
            Architecture::Amd64 => "q35,sata=off,smbus=off,usb=off,vmport=off",
            Architecture::Arm64 => "virt,gic-version=3",
        }
    }

    /// QEMU's processor.
    pub fn processor(self, accelerator: Accelerator) -> &'static str {
        match (self, accelerator) {
            (_, Accelerator::Kvm) => "host",
            (Architecture::Amd64, Accelerator::Tcg) => AMD64_PROCESSOR,
            (Architecture::Arm64, Accelerator::Tcg) => ARM64_PROCESSOR,
        }
    }

    /// The first serial port, by the kernel's name.
    pub fn console(self) -> &'static str {
        match self {
            Architecture::Amd64 => "ttyS0",
            Architecture::Arm64 => "ttyAMA0",
        }
    }

    /// Whether the host runs its instructions, so that KVM may work.
    pub fn is_hosts(self) -> bool {
        let own = match self {
            Architecture::Amd64 => "x86_64",
            Architecture::Arm64 => "aarch64",
        };
        std::env::consts::ARCH == own
    }

    /// The program that links programs for it, in a root where its kernel's headers are installed.
    pub fn linker(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-linux-gnu-gcc-14",
            Architecture::Arm64 => "aarch64-linux-gnu-gcc-14",
        }
    }

    /// Rust's name of the target that programs for it are built for.
    pub fn target(self) -> &'static str {
        match self {
            Architecture::Amd64 => "x86_64-unknown-linux-gnu",
            Architecture::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_debian_s() {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            let again = Architecture::parse(architecture.name()).unwrap();
            assert_eq!(again, architecture);
        }
        let error = Architecture::parse("s390x").unwrap_err();
        assert!(error.to_string().contains("s390x"));
    }
}
