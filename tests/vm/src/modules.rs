// SPDX-License-Identifier: GPL-2.0

//! Which of a kernel's modules the initial ram disk needs, in the order they load in.

use anyhow::{
    bail,
    Result, //
};
use std::collections::{
    BTreeSet,
    HashMap, //
};

/// A kernel's `modules.dep` and `modules.builtin`, as depmod(8) writes them.
pub struct Modules {
    /// Path of a module, from the kernel's module directory, by its name.
    paths: HashMap<String, String>,
    /// Names of the modules that one needs directly or not, by its name.
    needs: HashMap<String, Vec<String>>,
    /// Names of what is built into the kernel.
    built_in: BTreeSet<String>,
}

/// The name of the module in a file: no directories, no `.ko` or `.ko.xz`, and `_` for `-`, which the
/// kernel does not tell apart.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

impl Modules {
    /// Reads the two files' texts.
    pub fn parse(dep: &str, builtin: &str) -> Modules {
        let mut modules = Modules {
            paths: HashMap::new(),
            needs: HashMap::new(),
            built_in: builtin.lines().map(name).collect(),
        };
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            modules.paths.insert(name(path), path.to_string());
            modules
                .needs
                .insert(name(path), needs.split_whitespace().map(name).collect());
        }
        modules
    }

    /// Paths of `wanted` and of all they need, each after those that it needs itself.
    ///
    /// # Errors
    ///
    /// If the kernel has one of them neither as a module nor built in.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for module in wanted {
            self.visit(&name(module), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Appends `module` to `order`, after what it needs. `seen` are the names that were here before.
    fn visit(
        &self,
        module: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if self.built_in.contains(module) || !seen.insert(module.to_string()) {
            return Ok(());
        }
        let Some(path) = self.paths.get(module) else {
            bail!("the kernel has no module {module}");
        };
        for need in self.needs.get(module).into_iter().flatten() {
            self.visit(need, seen, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In depmod's form: all that a module needs follows it, nearest first.
    const DEP: &str = "\
kernel/fs/erofs/erofs.ko.xz: kernel/fs/netfs/netfs.ko.xz kernel/lib/lz4/lz4-decompress.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/lib/lz4/lz4-decompress.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/drivers/block/virtio_blk.ko:
";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\nkernel/crypto/crc32c-generic.ko\n";

    #[test]
    fn a_module_comes_after_what_it_needs_and_once() {
        let order = Modules::parse(DEP, BUILTIN)
            .load_order(&["erofs", "virtio_blk", "netfs"])
            .unwrap();
        assert_eq!(
            order,
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/lib/lz4/lz4-decompress.ko.xz",
                "kernel/fs/erofs/erofs.ko.xz",
                "kernel/drivers/block/virtio_blk.ko"
            ]
        );
    }

    #[test]
    fn built_in_needs_no_file_and_dashes_are_underscores() {
        let modules = Modules::parse(DEP, BUILTIN);
        let order = modules
            .load_order(&["virtio-pci", "crc32c_generic", "lz4_decompress"])
            .unwrap();
        assert_eq!(
            order,
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/lib/lz4/lz4-decompress.ko.xz"
            ]
        );
    }

    #[test]
    fn a_module_the_kernel_lacks_is_named() {
        let error = Modules::parse(DEP, BUILTIN)
            .load_order(&["ext4"])
            .unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module ext4");
    }
}
