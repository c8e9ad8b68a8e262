/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers that the kernel crate's own bindings lack; see Kbuild for which
 * of their functions are taken.
 */
#include <linux/proc_fs.h>
#include <linux/tty.h>
