// SPDX-License-Identifier: GPL-2.0
/*
 * The thread of a superblock: opens the server's control node, says that this
 * kernel raises the events itself, and reads them.
 *
 * The server knows the thread by its uid and its id, and changes nothing for
 * it. What the thread has of the superblock is a mount that no namespace has,
 * so umount(8) is not refused; when it is the last one, the thread lets it go.
 * It looks for that whenever a read has returned, which a server lets it do
 * after half a second.
 */

#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fsnotify_backend.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/stat.h>
#include <linux/timekeeping.h>

#include "farwatch.h"

/* docs/PROTOCOL.md, 5 and 6.1 */
#define MARKER_UID		0xfffffffdU
#define HELLO_MAGIC		0x45487766
#define WELCOME_MAGIC		0x45577766
#define VERSION			2
#define DELIVERY_READS		1
#define HELLO_RAISES		1
#define WELCOME_MARKS_PROVED	2
/* What a server may tell without more being asked of it than that it looks */
#define EVENTS	(FS_MODIFY | FS_ATTRIB | FS_CLOSE_WRITE | FS_MOVED_FROM | \
		 FS_MOVED_TO | FS_CREATE | FS_DELETE | FS_OPEN | FS_ACCESS | \
		 FS_CLOSE_NOWRITE)

/* A READ and its reply are a page for virtio_fs, which allocates them at once */
#define READ_SIZE	(4096 - sizeof(struct fuse_read_in))

/* After an error, and when a READ has brought nothing at once */
#define RETRY		HZ
#define PAUSE		(HZ / 10)

struct hello {
	__le32 magic;
	__le16 version_min;
	__le16 version_max;
	__le32 delivery;
	__le32 flags;
	__le64 events;
	__le64 reserved;
};

struct welcome {
	__le32 magic;
	__le16 version;
	__le16 flags;
	__le64 events;
	__le32 next_seq;
	__le32 generation;
	__le64 control;
	__le64 limbo;
	__le64 reserved;
};

/* Is the superblock mounted nowhere else? Each mount has an active reference. */
static bool is_alone(const struct farwatch_link *link)
{
	return atomic_read(&link->mnt->mnt_sb->s_active) == 1;
}

static void pause_for(unsigned long timeout)
{
	set_current_state(TASK_INTERRUPTIBLE);
	if (!kthread_should_stop())
		schedule_timeout(timeout);
	__set_current_state(TASK_RUNNING);
}

static void close_control(struct farwatch_link *link)
{
	if (link->control)
		fput(link->control);
	link->control = NULL;
}

/*
 * A superblock that is mounted read-only lets nobody open a file for writing.
 * What is written to this one goes to the server and changes no file.
 */
static ssize_t say(struct file *file, const void *buf, size_t len)
{
	const fmode_t write = FMODE_WRITE | FMODE_CAN_WRITE;
	fmode_t mode = file->f_mode;
	loff_t pos = 0;
	ssize_t ret;

	file->f_mode |= write;
	ret = kernel_write(file, buf, len, &pos);
	file->f_mode = (file->f_mode & ~write) | (mode & write);
	return ret;
}

static int greet(struct farwatch_link *link)
{
	const struct hello hello = {
		.magic = cpu_to_le32(HELLO_MAGIC),
		.version_min = cpu_to_le16(VERSION),
		.version_max = cpu_to_le16(VERSION),
		.delivery = cpu_to_le32(DELIVERY_READS),
		.flags = cpu_to_le32(HELLO_RAISES),
		.events = cpu_to_le64(EVENTS),
	};
	struct welcome welcome;
	loff_t pos = 0;
	ssize_t ret;

	/* Not from the stack: FUSE may hand on the pages */
	memcpy(link->reply, &hello, sizeof(hello));
	ret = say(link->control, link->reply, sizeof(hello));
	if (ret != sizeof(hello))
		return ret < 0 ? ret : -EPROTO;
	ret = kernel_read(link->control, link->reply, READ_SIZE, &pos);
	if (ret < 0)
		return ret;
	if (ret != sizeof(welcome))
		return -EPROTO;
	memcpy(&welcome, link->reply, sizeof(welcome));
	if (le32_to_cpu(welcome.magic) != WELCOME_MAGIC ||
	    le16_to_cpu(welcome.version) != VERSION || welcome.reserved)
		return -EPROTO;
	/* Without both marks the server takes this thread for any program */
	if (!(le16_to_cpu(welcome.flags) & WELCOME_MARKS_PROVED))
		return -EPERM;
	return 0;
}

/*
 * mount(2) does not wait for the answer to FUSE_INIT. Until it is there, FUSE
 * does not know whether the server can find a node by its handle, and says
 * ESTALE. Every request waits for it.
 */
static int wait_for_init(struct vfsmount *mnt)
{
	struct path path = { .mnt = mnt, .dentry = mnt->mnt_root };
	struct kstat stat;

	return vfs_getattr_nosec(&path, &stat, STATX_BASIC_STATS,
				 AT_STATX_FORCE_SYNC);
}

static int open_control(struct farwatch_link *link)
{
	struct path path = { .mnt = link->mnt };
	struct file *file;
	int err;

	err = wait_for_init(link->mnt);
	if (err)
		return err;
	path.dentry = farwatch_decode(link->mnt, FUSE_FSNOTIFY_CONTROL_NODEID, 0);
	if (IS_ERR(path.dentry))
		return PTR_ERR(path.dentry);
	if (d_is_reg(path.dentry))
		file = dentry_open(&path, O_RDONLY | O_LARGEFILE, current_cred());
	else
		file = ERR_PTR(-EPROTO);
	dput(path.dentry);
	if (IS_ERR(file))
		return PTR_ERR(file);

	link->control = file;
	err = greet(link);
	if (err)
		close_control(link);
	else
		fuse_fsnotify_join_init(&link->join);
	return err;
}

static void deliver(struct farwatch_link *link)
{
	if (fuse_fsnotify_join_push(&link->join, ktime_get_ns(), &link->msg,
				    &link->event))
		fuse_fsnotify_raise(&link->raiser, &link->event);
}

/* Raises what a read has returned. False if these are no messages. */
static bool take_reply(struct farwatch_link *link, size_t left)
{
	const char *pos = link->reply;
	struct fuse_out_header oh;

	while (left) {
		if (left < FUSE_FSNOTIFY_MSG_MIN)
			return false;
		memcpy(&oh, pos, sizeof(oh));
		if (oh.len < FUSE_FSNOTIFY_MSG_MIN || oh.len > left)
			return false;
		if (fuse_fsnotify_decode(pos, oh.len, &link->msg))
			link->refused++;
		else
			deliver(link);
		cond_resched();
		pos += oh.len;
		left -= oh.len;
	}
	return true;
}

/* One read of the control node; by it the server knows what has been raised */
static void read_control(struct farwatch_link *link)
{
	unsigned long begin = jiffies;
	loff_t pos = 0;
	ssize_t ret;

	ret = kernel_read(link->control, link->reply, READ_SIZE, &pos);
	if (ret < 0 || ret > (ssize_t)READ_SIZE || !take_reply(link, ret)) {
		/* The server was replaced, or says what is no message */
		close_control(link);
		pause_for(RETRY);
	} else if (!ret && time_before(jiffies, begin + PAUSE)) {
		pause_for(PAUSE);
	}
	while (fuse_fsnotify_join_expire(&link->join, ktime_get_ns(),
					 &link->event)) {
		fuse_fsnotify_raise(&link->raiser, &link->event);
		cond_resched();
	}
}

static const struct cred *marked_creds(void)
{
	struct cred *creds = prepare_creds();

	if (creds)
		creds->fsuid = KUIDT_INIT(MARKER_UID);
	return creds;
}

static int link_thread(void *data)
{
	struct farwatch_link *link = data;
	const struct cred *creds = marked_creds(), *old = NULL;

	link->error = -ENOMEM;
	if (creds) {
		old = override_creds(creds);
		link->error = open_control(link);
	}
	if (!link->error) {
		complete(&link->ready);
		while (!kthread_should_stop() && !is_alone(link)) {
			if (link->control)
				read_control(link);
			else if (open_control(link))
				pause_for(RETRY);
		}
	}
	close_control(link);
	if (creds) {
		revert_creds(old);
		put_cred(creds);
	}
	if (link->error)
		complete(&link->ready);
	/* The last of it may be the superblock's last */
	kern_unmount(link->mnt);
	smp_store_release(&link->done, true);
	return 0;
}

static void free_link(struct farwatch_link *link)
{
	kfree(link->reply);
	kvfree(link);
}

/**
 * farwatch_link_start - raise the events of a superblock
 * @path: of one of its mounts
 *
 * Return: the link, once the server has said welcome, or an error pointer.
 */
struct farwatch_link *farwatch_link_start(const struct path *path)
{
	struct farwatch_link *link;
	int err = -ENOMEM;

	link = kvzalloc(sizeof(*link), GFP_KERNEL);
	if (!link)
		return ERR_PTR(err);
	init_completion(&link->ready);
	fuse_fsnotify_join_init(&link->join);
	fuse_fsnotify_raiser_init(&link->raiser, &farwatch_ops, link);
	link->reply = kmalloc(READ_SIZE, GFP_KERNEL);
	if (!link->reply)
		goto out_free;
	link->mnt = clone_private_mount(path);
	if (IS_ERR(link->mnt)) {
		err = PTR_ERR(link->mnt);
		goto out_free;
	}
	link->task = kthread_create(link_thread, link, "farwatch/%u:%u",
				    MAJOR(path->mnt->mnt_sb->s_dev),
				    MINOR(path->mnt->mnt_sb->s_dev));
	if (IS_ERR(link->task)) {
		err = PTR_ERR(link->task);
		kern_unmount(link->mnt);
		goto out_free;
	}
	get_task_struct(link->task);
	wake_up_process(link->task);
	wait_for_completion(&link->ready);
	err = link->error;
	if (!err)
		return link;
	farwatch_link_stop(link);
	return ERR_PTR(err);

out_free:
	free_link(link);
	return ERR_PTR(err);
}

/**
 * farwatch_link_stop - raise them no more, and free the link
 * @link: which is in no list any more
 */
void farwatch_link_stop(struct farwatch_link *link)
{
	kthread_stop(link->task);
	put_task_struct(link->task);
	free_link(link);
}
