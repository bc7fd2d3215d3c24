// SPDX-License-Identifier: Apache-2.0 OR MIT
// The structs as include/uapi/linux/fuse.h spells them; layout.rs compares what this prints with
// what Rust has.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct fuse_out_header {
	uint32_t	len;
	int32_t		error;
	uint64_t	unique;
};

struct fuse_notify_fsnotify_out {
	uint64_t	nodeid;
	uint32_t	generation;
	uint32_t	reserved;
	uint64_t	mask;
	uint32_t	namelen;
	uint32_t	cookie;
	uint32_t	flags;
	uint32_t	child_generation;
	uint64_t	child_nodeid;
};

#define SIZE(type) printf(#type " %zu\n", sizeof(struct type))
#define FIELD(type, field) printf(#type "." #field " %zu\n", offsetof(struct type, field))

int main(void)
{
	SIZE(fuse_out_header);
	FIELD(fuse_out_header, len);
	FIELD(fuse_out_header, error);
	FIELD(fuse_out_header, unique);
	SIZE(fuse_notify_fsnotify_out);
	FIELD(fuse_notify_fsnotify_out, nodeid);
	FIELD(fuse_notify_fsnotify_out, generation);
	FIELD(fuse_notify_fsnotify_out, reserved);
	FIELD(fuse_notify_fsnotify_out, mask);
	FIELD(fuse_notify_fsnotify_out, namelen);
	FIELD(fuse_notify_fsnotify_out, cookie);
	FIELD(fuse_notify_fsnotify_out, flags);
	FIELD(fuse_notify_fsnotify_out, child_generation);
	FIELD(fuse_notify_fsnotify_out, child_nodeid);
	return 0;
}
