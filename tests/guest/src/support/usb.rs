// SPDX-License-Identifier: GPL-2.0

//! The device as the kernel's USB core sees it, in sysfs.

use super::sys::usb_reset;
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
};

/// Class of the communications interface, as sysfs writes it.
const COMMUNICATIONS: &str = "02";

/// Class of the data interface, as sysfs writes it.
const DATA: &str = "0a";

/// A device that is plugged in.
#[derive(Clone, Debug)]
pub(crate) struct UsbDevice {
    /// Its directory in sysfs.
    path: PathBuf,
}

/// The text of an attribute; empty where there is none (any more).
fn attribute(directory: &Path, name: &str) -> String {
    let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
    text.trim().to_owned()
}

/// A number as sysfs writes it.
fn hexadecimal(text: &str) -> Result<u8> {
    u8::from_str_radix(text, 16).with_context(|| format!("{text:?} is no number"))
}

impl UsbDevice {
    /// The device with this serial number, if it is plugged in and configured.
    pub(crate) fn find(serial: &str) -> Option<Self> {
        let devices = fs::read_dir("/sys/bus/usb/devices").ok()?;
        devices
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                attribute(path, "product") == "Alpha RNG"
                    && attribute(path, "serial") == serial
                    && attribute(path, "bNumInterfaces") == "2"
            })
            .map(|path| Self { path })
    }

    /// A device that is plugged in, but that root has not authorized.
    pub(crate) fn find_unauthorized() -> Option<Self> {
        let devices = fs::read_dir("/sys/bus/usb/devices").ok()?;
        devices
            .flatten()
            .map(|entry| entry.path())
            .find(|path| attribute(path, "authorized") == "0" && path.join("idVendor").exists())
            .map(|path| Self { path })
    }

    /// Whether it is still plugged in.
    pub(crate) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Has the kernel reset it, as a program may that has it open (`USBDEVFS_RESET`).
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn reset(&self) -> Result<()> {
        let path = self.node()?;
        let file = fs::File::options().write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {path}"))?;
        usb_reset(&file).with_context(|| format!("cannot reset {path}"))
    }

    /// One of its attributes; empty where there is none.
    pub(crate) fn attribute(&self, name: &str) -> String {
        attribute(&self.path, name)
    }

    /// Writes one of its attributes.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn set_attribute(&self, name: &str, value: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The directory of its interface of this class.
    fn interface(&self, class: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.path).ok()?;
        entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| attribute(path, "bInterfaceClass") == class)
    }

    /// The driver of the interface of this class.
    fn driver(&self, class: &str) -> Option<String> {
        let link = fs::read_link(self.interface(class)?.join("driver")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// The driver that its data interface is bound to.
    pub(crate) fn data_driver(&self) -> Option<String> {
        self.driver(DATA)
    }

    /// The driver that its communications interface is bound to.
    pub(crate) fn communications_driver(&self) -> Option<String> {
        self.driver(COMMUNICATIONS)
    }

    /// Whether it is in use as /dev/alrandom.
    pub(crate) fn is_in_use(&self) -> bool {
        // The driver is named in sysfs before it is even asked, so the module has the last word.
        self.data_driver().as_deref() == Some("alrandom") && self.is_listed().unwrap_or(false)
    }

    /// Whether the module lists it among the devices that it uses.
    fn is_listed(&self) -> Result<bool> {
        let text = fs::read_to_string(crate::health::HEALTH)?;
        let (bus, device) = self.address()?;
        let line = format!("device: bus {bus:03} device {device:03}");
        Ok(text.lines().any(|listed| listed == line))
    }

    /// Its numbers: of the bus, and on the bus.
    fn address(&self) -> Result<(u32, u32)> {
        let number = |name| self.attribute(name).parse::<u32>();
        Ok((number("busnum")?, number("devnum")?))
    }

    /// Whether the stock serial driver has it, with both interfaces.
    pub(crate) fn is_with_cdc_acm(&self) -> bool {
        let both = [self.data_driver(), self.communications_driver()];
        both.iter()
            .all(|driver| driver.as_deref() == Some("cdc_acm"))
    }

    /// The name of its data interface in sysfs, such as `1-1:1.1`.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub(crate) fn data_interface(&self) -> Result<String> {
        let interface = self.interface(DATA).context("no data interface")?;
        let name = interface.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Its node for usbfs.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub(crate) fn node(&self) -> Result<String> {
        let (bus, device) = self.address()?;
        Ok(format!("/dev/bus/usb/{bus:03}/{device:03}"))
    }

    /// The numbers of its interfaces: communications and data.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub(crate) fn interface_numbers(&self) -> Result<[u8; 2]> {
        let number = |class| -> Result<u8> {
            let interface = self.interface(class).context("an interface is missing")?;
            hexadecimal(&attribute(&interface, "bInterfaceNumber"))
        };
        Ok([number(COMMUNICATIONS)?, number(DATA)?])
    }

    /// The addresses of its bulk endpoints: IN and OUT.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub(crate) fn bulk_endpoints(&self) -> Result<(u8, u8)> {
        let data = self.interface(DATA).context("no data interface")?;
        let endpoints: Vec<_> = fs::read_dir(data)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| attribute(path, "type") == "Bulk")
            .collect();
        let address = |direction| -> Result<u8> {
            let endpoint = endpoints
                .iter()
                .find(|path| attribute(path, "direction") == direction);
            let endpoint = endpoint.with_context(|| format!("no endpoint {direction}"))?;
            hexadecimal(&attribute(endpoint, "bEndpointAddress"))
        };
        Ok((address("in")?, address("out")?))
    }

    /// The name of its tty, such as `ttyACM0`, while the stock serial driver has it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn tty(&self) -> Result<String> {
        let find = || -> Option<String> {
            let directory = self.interface(COMMUNICATIONS)?.join("tty");
            let entry = fs::read_dir(directory).ok()?.flatten().next()?;
            Some(entry.file_name().to_str()?.to_owned())
        };
        find().context("the device has no tty")
    }
}
