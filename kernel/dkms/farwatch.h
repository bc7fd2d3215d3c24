/* SPDX-License-Identifier: GPL-2.0 */
/*
 * farwatch_fsnotify: raises the events of a FUSE or virtiofs server on a kernel
 * without the patches that do it.
 *
 * main.c is what user space sees, link.c the thread that reads from the server,
 * ops.c what fsnotify_raise.c asks of a FUSE that exports nothing.
 */
#ifndef _FARWATCH_H
#define _FARWATCH_H

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mount.h>

#include "fsnotify_join.h"
#include "fsnotify_raise.h"

/**
 * struct farwatch_link - a superblock, and the thread that raises its events
 * @entry: in the list of main.c
 * @mnt: a mount of the superblock that no namespace has
 * @task: the thread
 * @ready: the server has answered, or not: @error
 * @error: of the first hello
 * @done: the thread has ended, and given back all that it had
 * @control: the control node, if it is open
 * @proved: the server has said welcome
 * @refused: messages that broke a rule
 */
struct farwatch_link {
	struct list_head entry;
	struct vfsmount *mnt;
	struct task_struct *task;
	struct completion ready;
	int error;
	bool done;
	u64 refused;

	/* The thread's own */
	struct file *control;
	char *reply;
	struct fuse_fsnotify_join join;
	struct fuse_fsnotify_raiser raiser;
	struct fuse_fsnotify_event event;
	struct fuse_fsnotify_msg msg;
};

/* link.c */
struct farwatch_link *farwatch_link_start(const struct path *path);
void farwatch_link_stop(struct farwatch_link *link);

/* ops.c */
extern const struct fuse_fsnotify_ops farwatch_ops;
bool farwatch_is_fuse(struct super_block *sb);
struct dentry *farwatch_decode(struct vfsmount *mnt, u64 nodeid,
			       u32 generation);

#endif /* _FARWATCH_H */
