/* DPDK's environment, and devices from probing to closing. Opening is allowed to be slow: nothing here is in a loop. */
#define _GNU_SOURCE
/* rte_dev_event_callback_register is marked so in 22.11, and stays as it is in later ones. */
#define ALLOW_EXPERIMENTAL_API
#include "herd.h"

#include <dlfcn.h>
#include <errno.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_version.h>

static void (*log_to)(uint32_t level, const char *text, size_t bytes);
static uint8_t removed[RTE_MAX_ETHPORTS];
static unsigned int interfaces[RTE_MAX_ETHPORTS];	/* of the kernel's, behind the device */

static ssize_t log_write(void *cookie, const char *text, size_t bytes)
{
	int level = rte_log_cur_msg_loglevel();

	(void)cookie;
	log_to(level < 0 ? RTE_LOG_INFO : (uint32_t)level, text, bytes);
	return bytes;
}

static int log_libbpf(int level, const char *format, va_list arguments)
{
	char text[512];
	int bytes = vsnprintf(text, sizeof(text), format, arguments);

	(void)level;
	if (bytes > 0)
		log_to(RTE_LOG_DEBUG, text, RTE_MIN((size_t)bytes, sizeof(text) - 1));
	return 0;
}

/* net_af_xdp comes with libraries that print to standard error, and are there only with that plugin. */
static void hush(const char *library, const char *function)
{
	void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
	void *(*set)(int (*)(int, const char *, va_list));

	if (!handle)
		return;
	*(void **)&set = dlsym(handle, function);
	if (set)
		set(log_libbpf);
	dlclose(handle);
}

/* Starts DPDK's environment, once a process; its logs go to `log`, and nowhere else. */
int rwd_init(int argc, char **argv, void (*log)(uint32_t, const char *, size_t))
{
	const cookie_io_functions_t functions = { .write = log_write };
	FILE *stream = fopencookie(NULL, "w", functions);

	if (!stream)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, 0);
	log_to = log;
	rte_openlog_stream(stream);
	if (rte_eal_init(argc, argv) < 0)
		return -rte_errno;
	hush("libbpf.so.0", "libbpf_set_print");
	hush("libbpf.so.1", "libbpf_set_print");
	hush("libxdp.so.1", "libxdp_set_print");
	return rwd_register_ops();
}

const char *rwd_version(void)
{
	return rte_version();
}

/* Memory of DPDK's, zeroed: what a device can read and write, and a vhost-user peer can map. */
void *rwd_memory(size_t bytes)
{
	return rte_zmalloc("ringway", bytes, 4096);
}

void rwd_memory_free(void *memory)
{
	rte_free(memory);
}

static int on_removed(uint16_t port, enum rte_eth_event_type event, void *argument, void *result)
{
	(void)event, (void)argument, (void)result;
	__atomic_store_n(&removed[port], 1, __ATOMIC_RELAXED);
	return 0;
}

/* A NIC that is about to be pulled out: the kernel waits until it is closed (VFIO's request; drivers/bus/pci/pci_common.c). */
static void on_unplugged(const char *device, enum rte_dev_event_type event, void *port)
{
	(void)device;
	if (event == RTE_DEV_EVENT_REMOVE)
		__atomic_store_n(&removed[(uintptr_t)port], 1, __ATOMIC_RELAXED);
}

/* The port of a device: the one of that name, or the first that the device has made. */
static int port_of(const char *device, uint16_t *port)
{
	struct rte_dev_iterator iterator;
	char name[RTE_ETH_NAME_MAX_LEN];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(device, ","), device);
	if (rte_eth_dev_get_port_by_name(name, port) == 0)
		return 0;
	if (rte_eth_iterator_init(&iterator, device) != 0)
		return -ENODEV;
	*port = rte_eth_iterator_next(&iterator);
	if (*port == RTE_MAX_ETHPORTS)
		return -ENODEV;
	rte_eth_iterator_cleanup(&iterator);
	return 0;
}

static uint32_t can(const struct rte_eth_dev_info *info)
{
	const uint64_t sums = RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	uint32_t can = 0;

	if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
		can |= RWD_CAN_CHAIN;
	if ((info->tx_offload_capa & sums) == sums)
		can |= RWD_CAN_CHECKSUM;
	if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM)
		can |= RWD_CAN_IP_CHECKSUM;
	if (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO)
		can |= RWD_CAN_CUT;
	if (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER)
		can |= RWD_CAN_SCATTER;
	return can;
}

/* A virtio-user that listens waits in here for its peer, as long as that takes. A signal that asks us to end must end the
 * wait too: for that its handler must not have calls begun again. */
static int probe(const char *device)
{
	int error;

	siginterrupt(SIGINT, 1);
	siginterrupt(SIGTERM, 1);
	error = rte_dev_probe(device);
	siginterrupt(SIGINT, 0);
	siginterrupt(SIGTERM, 0);
	return error;
}

/* What was probed and is of no use is let go of again. */
static void detach(const char *device)
{
	char name[RTE_DEV_NAME_MAX_LEN];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(device, ","), device);
	(void)rte_eal_hotplug_remove(strchr(name, ':') ? "pci" : "vdev", name);
}

int rwd_device_open(const char *device, struct rwd_facts *facts)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	int error = probe(device);

	memset(facts, 0, sizeof(*facts));
	if (error)
		return error;
	error = port_of(device, &facts->port);
	if (!error)
		error = rte_eth_dev_info_get(facts->port, &info);
	if (error) {
		detach(device);
		return error;
	}
	removed[facts->port] = 0;
	interfaces[facts->port] = info.if_index;
	rte_eth_dev_callback_register(facts->port, RTE_ETH_EVENT_INTR_RMV, on_removed, NULL);
	if (info.device)
		rte_dev_event_callback_register(rte_dev_name(info.device), on_unplugged, (void *)(uintptr_t)facts->port);
	facts->rss = info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP);
	facts->can = can(&info);
	facts->max_packet = info.max_rx_pktlen;
	facts->max_queues = RTE_MIN(info.max_rx_queues, info.max_tx_queues);
	facts->max_mtu = info.max_mtu;
	facts->rx_ring = info.default_rxportconf.ring_size;
	facts->tx_ring = info.default_txportconf.ring_size;
	facts->max_segments = info.tx_desc_lim.nb_seg_max;
	if (rte_eth_dev_get_mtu(facts->port, &facts->mtu) != 0)
		facts->mtu = RTE_ETHER_MTU;
	if (rte_eth_macaddr_get(facts->port, &mac) == 0)
		memcpy(facts->mac, mac.addr_bytes, sizeof(facts->mac));
	snprintf(facts->driver, sizeof(facts->driver), "%s", info.driver_name ? info.driver_name : "");
	return 0;
}

int rwd_device_configure(uint16_t port, uint16_t queues, uint32_t use, uint64_t rss, uint16_t mtu)
{
	struct rte_eth_conf conf;

	memset(&conf, 0, sizeof(conf));
	conf.rxmode.mtu = mtu;
	if (queues > 1 && rss) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = rss;
	}
	if (use & RWD_CAN_SCATTER)
		conf.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
	if (use & RWD_CAN_CHAIN)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (use & RWD_CAN_CHECKSUM)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	if (use & RWD_CAN_IP_CHECKSUM)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
	if (use & RWD_CAN_CUT)
		conf.txmode.offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO;
	return rte_eth_dev_configure(port, queues, queues, &conf);
}

/* Tells the interface behind the device too, where there is one. */
int rwd_device_mtu(uint16_t port, uint16_t mtu)
{
	int error = rte_eth_dev_set_mtu(port, mtu);

	return error == -ENOTSUP ? 0 : error;
}

/* Brings ring sizes into the device's limits. */
int rwd_device_rings(uint16_t port, uint16_t *rx, uint16_t *tx)
{
	return rte_eth_dev_adjust_nb_rx_tx_desc(port, rx, tx);
}

int rwd_device_queue(uint16_t port, uint16_t queue, uint16_t rx, uint16_t tx, struct rwd_herd *herd, bool copies)
{
	struct rte_mempool *pool = copies ? herd->copies : herd->pool;
	int error = rte_eth_rx_queue_setup(port, queue, rx, SOCKET_ID_ANY, NULL, pool);

	return error ? error : rte_eth_tx_queue_setup(port, queue, tx, SOCKET_ID_ANY, NULL);
}

int rwd_device_start(uint16_t port, bool promiscuous)
{
	int error = rte_eth_dev_start(port);

	if (error)
		return error;
	if (promiscuous) {
		/* What has no filter delivers everything anyway. */
		error = rte_eth_promiscuous_enable(port);
		if (error && error != -ENOTSUP)
			return error;
	}
	return 0;
}

/* The name of the n-th device that the environment has, whoever asked for it; false beyond the last. */
bool rwd_device_name(uint32_t n, char name[64])
{
	uint16_t port;

	_Static_assert(RTE_ETH_NAME_MAX_LEN <= 64, "names are longer in this DPDK");
	RTE_ETH_FOREACH_DEV(port) {
		if (n-- == 0)
			return rte_eth_dev_get_name_by_port(port, name) == 0;
	}
	return false;
}

void rwd_device_close(uint16_t port)
{
	struct rte_eth_dev_info info;
	bool known = rte_eth_dev_info_get(port, &info) == 0;

	rte_eth_dev_callback_unregister(port, RTE_ETH_EVENT_INTR_RMV, on_removed, NULL);
	(void)rte_eth_promiscuous_disable(port);
	(void)rte_eth_dev_stop(port);
	(void)rte_eth_dev_close(port);
	if (known && info.device) {
		rte_dev_event_callback_unregister(rte_dev_name(info.device), on_unplugged, (void *)(uintptr_t)port);
		(void)rte_dev_remove(info.device);
	}
}

bool rwd_device_up(uint16_t port)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

/* Taken out, by its own word; or it stands on an interface that is there no more. */
bool rwd_device_removed(uint16_t port)
{
	char name[IF_NAMESIZE];

	if (__atomic_load_n(&removed[port], __ATOMIC_RELAXED))
		return true;
	return interfaces[port] && !if_indextoname(interfaces[port], name) && errno == ENXIO;
}

int rwd_device_statistics(uint16_t port, struct rwd_statistics *statistics)
{
	struct rte_eth_stats stats;
	int error = rte_eth_stats_get(port, &stats);

	if (error)
		return error;
	statistics->missed = stats.imissed + stats.rx_nombuf;
	statistics->malformed = stats.ierrors;
	statistics->dropped = stats.oerrors;
	return 0;
}
