// SPDX-License-Identifier: GPL-2.0

//! `/dev/alrandom`.
//!
//! Any number of processes may read at once. What a read returns is told by
//! [`Pool::read`](crate::pool::Pool::read).

#![deny(unsafe_code)]

use crate::{
    abstractions::miscdevice::{
        MiscDevice,
        Registration, //
    },
    Source, //
};
use kernel::{
    fs::File,
    iov::IovIterDest,
    prelude::*,
    sync::{
        atomic::Relaxed,
        poll::PollTable,
        Arc, //
    }, //
};

/// What the files of the node work on.
pub(crate) struct Node {
    /// Where the bytes come from.
    source: Arc<Source>,
}

impl Node {
    /// Makes the node.
    pub(crate) fn register(
        module: &'static ThisModule,
        source: &Arc<Source>,
    ) -> Result<impl PinInit<Registration<Self>, Error>> {
        let node = Arc::new(
            Self {
                source: source.clone(),
            },
            GFP_KERNEL,
        )?;
        Ok(Registration::new(module, node))
    }
}

impl MiscDevice for Node {
    const NAME: &'static CStr = c"alrandom";
    const ATTRIBUTE: &'static CStr = c"startup_test";

    fn read(&self, to: &mut IovIterDest<'_>, nonblocking: bool) -> Result<usize> {
        // A device that another program was using may be free by now.
        if !nonblocking && self.source.busy.load(Relaxed) {
            self.source.scout.now();
            self.source.scout.flush();
        }
        self.source.pool.read(to, nonblocking)
    }

    fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        self.source.pool.poll(file, table)
    }

    fn store(&self, value: bool) -> Result {
        if value {
            self.source.pool.demand_start_up_test()
        } else {
            Ok(())
        }
    }
}
