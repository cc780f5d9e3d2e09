// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Can a device be given a file's own pages to read? Asks the kernel's VFIO to map memory of several origins for a device,
// and then what becomes of a page that is mapped when its file changes. Runs in a guest: see tests/guest_map_file.rs.
//
//   map-file GROUP FOLDER ..     GROUP is the device's file below /dev/vfio, each FOLDER is on a file system to be tried
//
// One line for each question, `name: answer`.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 1 << 20, PAGE = 4096 };

static int container;
static const uint64_t at = 1 << 24; // the device's address for it

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static int map(void *memory, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map ask = {
		.argsz = sizeof(ask), .flags = flags, .vaddr = (uint64_t)memory, .iova = at, .size = BYTES,
	};
	return ioctl(container, VFIO_IOMMU_MAP_DMA, &ask) ? errno : 0;
}

static void unmap(void)
{
	struct vfio_iommu_type1_dma_unmap ask = { .argsz = sizeof(ask), .iova = at, .size = BYTES };

	if (ioctl(container, VFIO_IOMMU_UNMAP_DMA, &ask))
		die("VFIO_IOMMU_UNMAP_DMA");
}

// The physical page behind an address (Documentation/admin-guide/mm/pagemap.rst); 0 when there is none at the moment.
static uint64_t frame(const void *address)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(fd, &entry, 8, (uintptr_t)address / PAGE * 8) != 8)
		die("pagemap");
	close(fd);
	return entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
}

static int file(const char *folder, const char *name)
{
	static char bytes[BYTES];
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	memset(bytes, 'a', BYTES);
	if (fd < 0 || write(fd, bytes, BYTES) != BYTES || fsync(fd))
		die(path);
	return fd;
}

static void try(const char *origin, const char *how, void *memory, uint32_t flags)
{
	int error;

	if (memory == MAP_FAILED)
		die(origin);
	error = map(memory, flags);
	printf("%s %s, %s: %s\n", origin, how, flags & VFIO_DMA_MAP_FLAG_WRITE ? "read and write" : "read", error ? strerror(error) : "mapped");
	if (!error)
		unmap();
	munmap(memory, BYTES);
}

static void tries(const char *folder)
{
	const uint32_t read = VFIO_DMA_MAP_FLAG_READ, both = read | VFIO_DMA_MAP_FLAG_WRITE;
	int fd = file(folder, "tries");

	try(folder, "shared, read-only", mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0), read);
	try(folder, "shared, read-only", mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0), both);
	try(folder, "shared", mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), read);
	try(folder, "shared", mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), both);
	try(folder, "private, read-only", mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, fd, 0), read);
	close(fd);
}

// What the device would read is the page that was there when it was mapped; what readers of the file get is the page that is
// there now. `same` says whether they are one.
static void event(const char *folder, const char *what, uint64_t before, char *memory)
{
	char seen = *memory; // brings in the page, if there is one

	printf("%s after %s: %s, readers see '%c'\n", folder, what, frame(memory) == before ? "the same page" : "another page", seen);
}

static void events(const char *folder)
{
	int fd = file(folder, "events"), direct;
	char *memory = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0), path[256];
	static char block[PAGE] __attribute__((aligned(PAGE)));
	uint64_t before;

	if (memory == MAP_FAILED || *memory != 'a')
		die(folder);
	before = frame(memory);
	if (map(memory, VFIO_DMA_MAP_FLAG_READ))
		return;
	printf("%s mapping moves the page: %s\n", folder, frame(memory) == before ? "no" : "yes");
	before = frame(memory);

	if (pwrite(fd, "b", 1, 0) != 1)
		die("pwrite");
	event(folder, "a write", before, memory);

	fsync(fd);
	madvise(memory, BYTES, MADV_DONTNEED);
	int caches = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (write(caches, "3", 1) != 1)
		die("drop_caches");
	close(caches);
	event(folder, "eviction", before, memory);

	madvise(memory, BYTES, MADV_DONTNEED);
	snprintf(path, sizeof(path), "%s/events", folder);
	direct = open(path, O_WRONLY | O_DIRECT);
	memset(block, 'c', PAGE);
	if (direct < 0)
		printf("%s a direct write: no such thing here (%s)\n", folder, strerror(errno));
	else
		printf("%s a direct write: %s\n", folder, pwrite(direct, block, PAGE, 0) == PAGE ? "written" : strerror(errno));
	event(folder, "a direct write", before, memory);

	// The page itself, by its own name, is out of reach after this: only the device still has it.
	if (ftruncate(fd, 0) || ftruncate(fd, BYTES) || pwrite(fd, "d", 1, 0) != 1)
		die("ftruncate");
	event(folder, "truncation and a write", before, memory);
	unmap();
}

int main(int count, char **words)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int group, fd;
	void *memory;

	setvbuf(stdout, NULL, _IOLBF, 0);
	container = open("/dev/vfio/vfio", O_RDWR);
	group = count > 1 ? open(words[1], O_RDWR) : -1;
	if (container < 0 || group < 0 || ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		die("opening the group");
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE) || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		die("giving the group an address space");

	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	try("anonymous", "private", memory, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	fd = memfd_create("map-file", 0);
	if (ftruncate(fd, BYTES))
		die("memfd");
	try("memfd", "shared", mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	for (int i = 2; i < count; i++)
		tries(words[i]);
	for (int i = 2; i < count; i++)
		events(words[i]);
	return 0;
}
