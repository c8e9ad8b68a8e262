// SPDX-License-Identifier: GPL-2.0

//! Writes an initial ram disk: a cpio archive of the form "newc", as
//! `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel has it.

use anyhow::{
    Context,
    Result, //
};
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path, //
};

/// File type bits of a directory and of a regular file (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive that is being written.
pub struct Archive<W: Write> {
    /// Where it goes.
    to: W,
    /// Directories it has already.
    directories: BTreeSet<String>,
    /// Number of the next entry; each has its own, so that none is taken for a hard link.
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(to: W) -> Archive<W> {
        Archive {
            to,
            directories: BTreeSet::new(),
            inode: 1,
        }
    }

    /// Writes one entry. `mode` is its type and its permissions.
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        let size = u32::try_from(data.len()).with_context(|| format!("{name} is too large"))?;
        // Owner and group are root; the time is 0; all numbers are eight hexadecimal digits.
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.inode += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.to.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    /// Header and data each end on a multiple of four bytes.
    fn pad(&mut self, length: usize) -> Result<()> {
        let zeros = [0; 3];
        Ok(self
            .to
            .write_all(&zeros[..length.next_multiple_of(4) - length])?)
    }

    /// Adds the directory `name` (no leading slash) and those above it, unless they are there.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || self.directories.contains(name) {
            return Ok(());
        }
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.directories.insert(name.to_string());
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a file `name` (no leading slash) and the directories above it.
    ///
    /// # Errors
    ///
    /// If it can't be written, or is 4 GB or more.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.directory(parent)?;
        }
        self.entry(name, FILE | (permissions & 0o7777), data)
    }

    /// Adds a file of the host's, with its permission to be executed.
    ///
    /// # Errors
    ///
    /// If it can't be read or written.
    pub fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let what = || format!("can't put {} into the initial ram disk", from.display());
        let data = fs::read(from).with_context(what)?;
        let executable = fs::metadata(from).with_context(what)?.permissions().mode() & 0o100 != 0;
        self.file(name, if executable { 0o755 } else { 0o644 }, &data)
            .with_context(what)
    }

    /// Adds all of a directory of the host's. Symbolic links are followed; anything that is neither
    /// file nor directory is left out.
    ///
    /// # Errors
    ///
    /// If one of them can't be read or written.
    pub fn copy_all(&mut self, name: &str, from: &Path) -> Result<()> {
        self.directory(name)?;
        let mut entries = fs::read_dir(from)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("can't read {}", from.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{name}/{}", entry.file_name().to_string_lossy());
            let path = entry.path();
            if path.is_dir() {
                self.copy_all(&inside, &path)?;
            } else if path.is_file() {
                self.copy(&inside, &path)?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// If it can't be written.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_documented_form() {
        let mut archive = Archive::new(Vec::new());
        archive.file("dir/a", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();

        // Written out by hand after buffer-format.rst: magic, inode, mode, uid, gid, links, time,
        // size, two device numbers (each major and minor), length of the name with its zero, checksum.
        let mut wanted = Vec::new();
        wanted.extend_from_slice(
            b"070701\
              00000001000041ED0000000000000000000000020000000000000000\
              0000000000000000000000000000000000000004\
              00000000dir\0\0\0",
        );
        wanted.extend_from_slice(
            b"070701\
              00000002000081ED0000000000000000000000010000000000000005\
              0000000000000000000000000000000000000006\
              00000000dir/a\0",
        );
        wanted.extend_from_slice(b"hello\0\0\0");
        wanted.extend_from_slice(
            b"070701\
              00000003000000000000000000000000000000010000000000000000\
              000000000000000000000000000000000000000B\
              00000000TRAILER!!!\0\0\0\0",
        );
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            String::from_utf8_lossy(&wanted)
        );
    }

    #[test]
    fn a_directory_is_written_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", 0o644, b"").unwrap();
        archive.file("a/b/d", 0o644, b"").unwrap();
        let text = String::from_utf8(archive.finish().unwrap()).unwrap();
        // a, a/b, a/b/c, a/b/d and the trailer.
        assert_eq!(text.matches("070701").count(), 5);
    }
}
