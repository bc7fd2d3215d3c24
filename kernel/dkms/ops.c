// SPDX-License-Identifier: GPL-2.0
/*
 * What fsnotify_raise.c asks of a file system, done with what a FUSE without
 * the patches has for everyone: inode and export operations, and lookups.
 *
 * An attribute that is true no more cannot be marked as such from here, so it
 * is asked for at once. An inode is found by the file handle that FUSE makes of
 * it, which has the nodeid and the generation.
 */

#include <linux/err.h>
#include <linux/exportfs.h>
#include <linux/iversion.h>
#include <linux/magic.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/posix_acl.h>
#include <linux/stat.h>
#include <linux/string.h>

#include "farwatch.h"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC	0x65735546
#endif
/* FILEID_INO64_GEN, as FUSE has it */
#define HANDLE_TYPE	0x81
#define HANDLE_WORDS	3

struct node {
	u64 nodeid;
	u32 generation;
};

bool farwatch_is_fuse(struct super_block *sb)
{
	const struct export_operations *ops = sb->s_export_op;

	return sb->s_magic == FUSE_SUPER_MAGIC && ops && ops->encode_fh &&
	       ops->fh_to_dentry;
}

static int any_dentry(void *context, struct dentry *dentry)
{
	return 1;
}

/* A node that is not in the cache is asked for with LOOKUP of "." */
struct dentry *farwatch_decode(struct vfsmount *mnt, u64 nodeid,
			       u32 generation)
{
	u32 handle[HANDLE_WORDS] = {
		upper_32_bits(nodeid), lower_32_bits(nodeid), generation
	};
	struct dentry *dentry;

	dentry = exportfs_decode_fh(mnt, (struct fid *)handle, HANDLE_WORDS,
				    HANDLE_TYPE, any_dentry, NULL);
	return dentry ?: ERR_PTR(-ESTALE);
}

static int is_node(struct inode *inode, void *data)
{
	const struct node *node = data;
	u32 handle[HANDLE_WORDS];
	int len = HANDLE_WORDS;

	if (inode->i_sb->s_export_op->encode_fh(inode, handle, &len, NULL) !=
	    HANDLE_TYPE)
		return 0;
	return handle[0] == upper_32_bits(node->nodeid) &&
	       handle[1] == lower_32_bits(node->nodeid) &&
	       handle[2] == node->generation;
}

/* FUSE hashes its inodes by nodeid */
static struct inode *find(void *fs, u64 nodeid, u32 generation)
{
	struct farwatch_link *link = fs;
	struct node node = { .nodeid = nodeid, .generation = generation };

	if (nodeid >= FUSE_FSNOTIFY_RESERVED_NODEID)
		return NULL;
	return ilookup5(link->mnt->mnt_sb, nodeid, is_node, &node);
}

static void put(void *fs, struct inode *inode)
{
	iput(inode);
}

/* GETATTR, whatever is cached */
static int refresh(void *fs, struct inode *inode)
{
	struct farwatch_link *link = fs;
	struct path path = { .mnt = link->mnt };
	struct kstat stat;
	int err;

	path.dentry = d_find_any_alias(inode);
	if (!path.dentry) {
		ihold(inode);
		path.dentry = d_obtain_alias(inode);
		if (IS_ERR(path.dentry))
			return PTR_ERR(path.dentry);
	}
	err = vfs_getattr_nosec(&path, &stat, STATX_BASIC_STATS,
				AT_STATX_FORCE_SYNC);
	dput(path.dentry);
	return err;
}

static void inval_attr(void *fs, struct inode *inode)
{
	refresh(fs, inode);
	forget_all_cached_acls(inode);
}

static void inval_data(void *fs, struct inode *inode)
{
	invalidate_inode_pages2(inode->i_mapping);
}

static void inval_dir(void *fs, struct inode *dir)
{
	inode_maybe_inc_iversion(dir, false);
	refresh(fs, dir);
}

/* Asks the server whether the entry is still true; it is gone if not */
static void expire(void *fs, struct dentry *entry)
{
	if (!entry->d_op || !entry->d_op->d_revalidate)
		return;
	if (entry->d_op->d_revalidate(entry, LOOKUP_REVAL) <= 0)
		d_invalidate(entry);
}

/* The directory is locked */
static struct inode *lookup(void *fs, struct inode *dir,
			    const struct qstr *name)
{
	struct dentry *parent = d_find_any_alias(dir), *entry;
	struct qstr hashed = *name;
	struct inode *inode;

	if (!parent)
		return ERR_PTR(-ESTALE);
	hashed.hash = full_name_hash(parent, name->name, name->len);
	entry = d_lookup(parent, &hashed);
	if (entry) {
		expire(fs, entry);
		dput(entry);
	}
	entry = lookup_one_len(name->name, parent, name->len);
	dput(parent);
	if (IS_ERR(entry))
		return ERR_CAST(entry);
	inode = igrab(d_inode(entry) ?: dir);
	if (d_is_negative(entry)) {
		iput(inode);
		inode = NULL;
	}
	dput(entry);
	return inode ?: ERR_PTR(-ENOENT);
}

static bool wants_child(void *fs, struct inode *dir)
{
	return false;
}

static void probe(void *fs, u64 nodeid)
{
	struct farwatch_link *link = fs;
	struct dentry *dentry = farwatch_decode(link->mnt, nodeid, 0);

	if (!IS_ERR(dentry))
		dput(dentry);
}

const struct fuse_fsnotify_ops farwatch_ops = {
	.find		= find,
	.lookup		= lookup,
	.put		= put,
	.inval_attr	= inval_attr,
	.inval_data	= inval_data,
	.inval_dir	= inval_dir,
	.expire		= expire,
	.refresh	= refresh,
	.wants_child	= wants_child,
	.probe		= probe,
};
