// SPDX-License-Identifier: GPL-2.0
/*
 * Which superblocks have their events raised: user space writes a mount point
 * to one of the module's parameters.
 *
 *   echo /mnt/share >/sys/module/farwatch_fsnotify/parameters/attach
 *   cat /sys/module/farwatch_fsnotify/parameters/attach
 *   echo /mnt/share >/sys/module/farwatch_fsnotify/parameters/detach
 *
 * A superblock that is unmounted everywhere is let go by itself.
 */

#include <linux/err.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "farwatch.h"

/* Superblocks at a time */
#define LINKS_MAX	64

static char *mounts;
module_param(mounts, charp, 0444);
MODULE_PARM_DESC(mounts, "Mount points to attach when the module is loaded, with commas in between");

/* Protects what follows */
static DEFINE_MUTEX(links_mutex);
static LIST_HEAD(links);
/* Not while the module comes or goes, when its parameters are there, too */
static bool loaded;

static void drop_link(struct farwatch_link *link)
{
	list_del(&link->entry);
	farwatch_link_stop(link);
}

/* Those whose thread has ended: nothing is mounted any more */
static void reap(void)
{
	struct farwatch_link *link, *next;

	lockdep_assert_held(&links_mutex);

	list_for_each_entry_safe(link, next, &links, entry) {
		if (smp_load_acquire(&link->done))
			drop_link(link);
	}
}

static struct farwatch_link *find_link(struct super_block *sb, int *count)
{
	struct farwatch_link *link, *found = NULL;

	*count = 0;
	list_for_each_entry(link, &links, entry) {
		if (link->mnt->mnt_sb == sb)
			found = link;
		++*count;
	}
	return found;
}

/* The rest has the list locked, and finds what is attached to the superblock */
static int attach(const struct path *path, struct farwatch_link *link,
		  int count)
{
	if (!farwatch_is_fuse(path->mnt->mnt_sb))
		return -EOPNOTSUPP;
	if (link)
		return -EEXIST;
	if (count == LINKS_MAX)
		return -ENOSPC;
	link = farwatch_link_start(path);
	if (IS_ERR(link))
		return PTR_ERR(link);
	list_add_tail(&link->entry, &links);
	return 0;
}

/* A module that may not get loaded, or is about to go, starts no thread */
static int attach_loaded(const struct path *path, struct farwatch_link *link,
			 int count)
{
	return loaded ? attach(path, link, count) : -EBUSY;
}

static int detach(const struct path *path, struct farwatch_link *link,
		  int count)
{
	if (!link)
		return -ENOENT;
	drop_link(link);
	return 0;
}

static int with_mount(const char *name,
		      int (*act)(const struct path *path,
				 struct farwatch_link *link, int count))
{
	struct farwatch_link *link;
	struct path path;
	int count, err;

	err = kern_path(name, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &path);
	if (err)
		return err;
	mutex_lock(&links_mutex);
	reap();
	link = find_link(path.mnt->mnt_sb, &count);
	err = act(&path, link, count);
	mutex_unlock(&links_mutex);
	path_put(&path);
	return err;
}

/* One mount point, and perhaps the end of a line */
static int with_line(const char *val,
		     int (*act)(const struct path *path,
				struct farwatch_link *link, int count))
{
	char *name, *end;
	int err;

	name = kstrdup(val, GFP_KERNEL);
	if (!name)
		return -ENOMEM;
	end = strchrnul(name, '\n');
	*end = '\0';
	err = with_mount(name, act);
	kfree(name);
	return err;
}

static int attach_set(const char *val, const struct kernel_param *kp)
{
	return with_line(val, attach_loaded);
}

/* A line for each superblock */
static int attach_get(char *buffer, const struct kernel_param *kp)
{
	struct farwatch_link *link;
	int len = 0;

	mutex_lock(&links_mutex);
	reap();
	list_for_each_entry(link, &links, entry) {
		const struct fuse_fsnotify_raiser *r = &link->raiser;

		len += scnprintf(buffer + len, PAGE_SIZE - len,
				 "%u:%u raised %llu unknown %llu overflows %llu refused %llu\n",
				 MAJOR(link->mnt->mnt_sb->s_dev),
				 MINOR(link->mnt->mnt_sb->s_dev), r->raised,
				 r->unknown, r->overflows, link->refused);
	}
	mutex_unlock(&links_mutex);
	return len;
}

static int detach_set(const char *val, const struct kernel_param *kp)
{
	return with_line(val, detach);
}

static const struct kernel_param_ops attach_param_ops = {
	.set = attach_set,
	.get = attach_get,
};

static const struct kernel_param_ops detach_param_ops = {
	.set = detach_set,
};

module_param_cb(attach, &attach_param_ops, NULL, 0600);
MODULE_PARM_DESC(attach, "Write a mount point: its events are raised from now on. Read: what was raised");
module_param_cb(detach, &detach_param_ops, NULL, 0200);
MODULE_PARM_DESC(detach, "Write a mount point: its events are raised no more");

static void drop_all(void)
{
	struct farwatch_link *link, *next;

	mutex_lock(&links_mutex);
	loaded = false;
	list_for_each_entry_safe(link, next, &links, entry)
		drop_link(link);
	mutex_unlock(&links_mutex);
}

static int __init farwatch_init(void)
{
	char *rest = mounts, *name;
	int err;

	while (rest && (name = strsep(&rest, ","))) {
		err = with_mount(name, attach);
		if (err) {
			pr_err("farwatch: %s: error %d\n", name, err);
			drop_all();
			return err;
		}
	}
	mutex_lock(&links_mutex);
	loaded = true;
	mutex_unlock(&links_mutex);
	return 0;
}

static void __exit farwatch_exit(void)
{
	drop_all();
}

module_init(farwatch_init);
module_exit(farwatch_exit);

MODULE_DESCRIPTION("Events of a FUSE or virtiofs server by inotify and fanotify");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
