package main

import (
	"time"

	v1 "kubevirt.io/api/core/v1"
	"kubevirt.io/client-go/log"
	agentpoller "kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/agent-poller"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/api"
)

// freezer does what virtwrap/storage/fsfreeze.go does. Its calls may overlap, as there.
type freezer struct {
	connection *recordingConnection
	cancel     chan struct{}
}

func newFreezer(connection *recordingConnection) *freezer {
	return &freezer{connection: connection, cancel: make(chan struct{})}
}

// freeze starts the safety timer once the guest has frozen; a guest that is frozen already is left as it is, timer
// included.
func (f *freezer) freeze(vmi *v1.VirtualMachineInstance, safetySeconds int32) error {
	name := api.VMINamespaceKeyFunc(vmi)
	status, err := f.status(name)
	if err != nil {
		return err
	}
	if status == api.FSFrozen {
		f.connection.note("freeze", "done", "already frozen")
		return nil
	}
	if err := f.connection.freeze(name); err != nil {
		return err
	}
	f.cancelTimer()
	if safetySeconds != 0 {
		go f.thawAfter(vmi, time.Duration(safetySeconds)*time.Second)
	}
	return nil
}

// unfreeze cancels the timer in any case and sends a thaw unless the guest says that it is thawed.
func (f *freezer) unfreeze(vmi *v1.VirtualMachineInstance) error {
	f.cancelTimer()
	name := api.VMINamespaceKeyFunc(vmi)
	if status, err := f.status(name); err == nil && status == api.FSThawed {
		f.connection.note("thaw", "done", "already thawed")
		return nil
	}
	return f.connection.thaw(name)
}

func (f *freezer) thawAfter(vmi *v1.VirtualMachineInstance, wait time.Duration) {
	select {
	case <-time.After(wait):
		f.connection.note("safety-timer", "done", wait.String())
		if err := f.unfreeze(vmi); err != nil {
			log.Log.Reason(err).Error("the safety timer could not thaw")
		}
	case <-f.cancel:
	}
}

func (f *freezer) cancelTimer() {
	select {
	case f.cancel <- struct{}{}:
	default:
	}
}

func (f *freezer) status(domain string) (string, error) {
	answer, err := f.connection.QemuAgentCommand(`{"execute":"`+string(agentpoller.GetFSFreezeStatus)+`"}`, domain)
	if err != nil {
		return "", err
	}
	parsed, err := agentpoller.ParseFSFreezeStatus(answer)
	return parsed.Status, err
}
