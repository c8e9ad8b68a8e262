/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers that the kernel crate's own bindings lack; see Kbuild for which
 * of their functions and types are taken.
 */
#include <linux/freezer.h>
#include <linux/hw_random.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/tty.h>
