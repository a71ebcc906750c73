// Command launcher-bridge stands where virt-launcher stands: it answers virt-freezer and virt-probe on a launcher socket
// for one libvirt domain, because the real virt-launcher does not run outside a pod.
//
// KubeVirt's own code does the work wherever it can be built (v1.8.4): the protobuf services of
// pkg/handler-launcher-com, the libvirt connection of virtwrap/cli, guest exec of virtwrap/agent, the agent's data with
// its polling and caching of virtwrap/agent-poller, domain states of virtwrap/util. What is imitated, and no more:
//
//   - FreezeVMI and UnfreezeVMI with the safety timer (virtwrap/storage/fsfreeze.go; that package needs libnbd), without
//     its check for a migration and its sync of a TPM;
//   - the answers of Info, GetGuestInfo, GetDomain, Exec and GuestPing (virtwrap/cmd-server, virtwrap/manager.go), where
//     GetGuestInfo has the agent's version and freeze status only, GetDomain the domain's name and state only, and
//     GuestPing does not forgive a silent agent of a paused or migrating domain;
//   - the domain is looked up by its name, for here several share one libvirtd;
//   - the start of the agent poller by libvirt's events (notify-client), with virt-launcher's default intervals.
//
// Every other call of the launcher's service ends this program, as a panic there ends virt-launcher.
//
// Beyond the launcher, it writes what it sends to the guest agent for a caller into a log of JSON lines (record.go).
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"libvirt.org/go/libvirt"

	"kubevirt.io/client-go/log"
	"kubevirt.io/kubevirt/pkg/handler-launcher-com/cmd/info"
	cmdv1 "kubevirt.io/kubevirt/pkg/handler-launcher-com/cmd/v1"
	grpcutil "kubevirt.io/kubevirt/pkg/util/net/grpc"
	agentpoller "kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/agent-poller"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/cli"
)

// Defaults of virt-launcher's flags (cmd/virt-launcher/virt-launcher.go).
const (
	libvirtCheckInterval   = 10 * time.Second
	sysInterval            = 120 * time.Second
	fileInterval           = 300 * time.Second
	userInterval           = 10 * time.Second
	versionInterval        = 300 * time.Second
	fsFreezeStatusInterval = 5 * time.Second
)

func main() {
	uri := flag.String("uri", "", "libvirt connection URI")
	domain := flag.String("domain", "", "name of the libvirt domain, NAMESPACE_NAME; it may start later")
	socket := flag.String("socket", "", "path of the launcher socket to serve")
	record := flag.String("record", "", "file to append what reaches the guest agent to, as JSON lines")
	flag.Parse()
	log.InitializeLogging("launcher-bridge")
	if err := serve(*uri, *domain, *socket, *record); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(uri, domain, socket, recordFile string) error {
	file, err := os.OpenFile(recordFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go runEvents()
	connection, err := cli.NewConnection(uri, "", "", libvirtCheckInterval)
	if err != nil {
		return err
	}
	store, err := pollAgent(connection, domain)
	if err != nil {
		return err
	}
	listener, err := grpcutil.CreateSocket(socket)
	if err != nil {
		return err
	}
	recorded := &recordingConnection{Connection: connection, recorder: &recorder{file: file}}
	server := grpc.NewServer()
	info.RegisterCmdInfoServer(server, infoServer{})
	cmdv1.RegisterCmdServer(server, newLauncher(recorded, domain, store))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ended
		server.Stop()
	}()
	return server.Serve(listener)
}

func runEvents() {
	for {
		if err := libvirt.EventRunDefaultImpl(); err != nil {
			log.Log.Reason(err).Error("Listening to libvirt events failed, retrying.")
			time.Sleep(time.Second)
		}
	}
}

// pollAgent fills the returned store while the domain runs and its agent is connected.
func pollAgent(connection cli.Connection, domain string) (*agentpoller.AsyncAgentStore, error) {
	store := agentpoller.NewAsyncAgentStore()
	poller := agentpoller.CreatePoller(connection, "", domain, &store,
		sysInterval, fileInterval, userInterval, versionInterval, fsFreezeStatusInterval)
	updates := make(chan func(), 10)
	go func() { // not in libvirt's callback, which must return at once
		for {
			select {
			case update := <-updates:
				update()
			case <-store.AgentUpdated: // virt-launcher sends these to virt-handler
			}
		}
	}()
	go func() {
		for store.GetGA().Version == "" {
			time.Sleep(50 * time.Millisecond)
		}
		log.Log.Infof("guest agent %s is known", store.GetGA().Version) // whoever starts a guest waits for this line
	}()
	of := func(d *libvirt.Domain) bool {
		name, err := d.GetName()
		return err == nil && name == domain
	}
	err := connection.DomainEventLifecycleRegister(
		func(_ *libvirt.Connect, d *libvirt.Domain, event *libvirt.DomainEventLifecycle) {
			if of(d) {
				updates <- func() { poller.UpdateFromEvent(event, nil) }
			}
		})
	if err != nil {
		return nil, err
	}
	err = connection.AgentEventLifecycleRegister(
		func(_ *libvirt.Connect, d *libvirt.Domain, event *libvirt.DomainEventAgentLifecycle) {
			if of(d) {
				updates <- func() { poller.UpdateFromEvent(nil, event) }
			}
		})
	return &store, err
}
