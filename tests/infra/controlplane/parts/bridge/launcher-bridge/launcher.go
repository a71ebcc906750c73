package main

import (
	"context"
	"encoding/json"
	"errors"

	"libvirt.org/go/libvirt"

	v1 "kubevirt.io/api/core/v1"
	"kubevirt.io/kubevirt/pkg/handler-launcher-com/cmd/info"
	cmdv1 "kubevirt.io/kubevirt/pkg/handler-launcher-com/cmd/v1"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/agent"
	agentpoller "kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/agent-poller"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/api"
	launchererrors "kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/errors"
	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/util"
)

type infoServer struct{}

func (infoServer) Info(context.Context, *info.CmdInfoRequest) (*info.CmdInfoResponse, error) {
	return &info.CmdInfoResponse{SupportedCmdVersions: []uint32{cmdv1.CmdVersion}}, nil
}

// launcher is the part of virtwrap/cmd-server that virt-freezer and virt-probe call.
type launcher struct {
	cmdv1.CmdServer // nil: a call of anything else is a panic
	connection      *recordingConnection
	domain          string
	store           *agentpoller.AsyncAgentStore
	freezer         *freezer
}

func newLauncher(connection *recordingConnection, domain string, store *agentpoller.AsyncAgentStore) *launcher {
	return &launcher{connection: connection, domain: domain, store: store, freezer: newFreezer(connection)}
}

func (l *launcher) GetGuestInfo(context.Context, *cmdv1.EmptyRequest) (*cmdv1.GuestInfoResponse, error) {
	ga := l.store.GetGA()
	guest := v1.VirtualMachineInstanceGuestAgentInfo{GAVersion: ga.Version, SupportedCommands: ga.SupportedCommands}
	if status := l.store.GetFSFreezeStatus(); status != nil {
		guest.FSFreezeStatus = status.Status
	}
	text, err := json.Marshal(guest)
	return &cmdv1.GuestInfoResponse{Response: outcome(err), GuestInfoResponse: string(text)}, nil
}

func (l *launcher) GetDomain(context.Context, *cmdv1.EmptyRequest) (*cmdv1.DomainResponse, error) {
	domain, err := l.state()
	if err != nil || domain == nil {
		return &cmdv1.DomainResponse{Response: outcome(err)}, nil
	}
	text, err := json.Marshal(domain)
	return &cmdv1.DomainResponse{Response: outcome(err), Domain: string(text)}, nil
}

// state returns nil when libvirt has no such domain.
func (l *launcher) state() (*api.Domain, error) {
	found, err := l.connection.LookupDomainByName(l.domain)
	if launchererrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer found.Free()
	domain, err := util.NewDomain(found)
	if err != nil {
		return nil, err
	}
	state, reason, err := found.GetState()
	if err != nil {
		return nil, err
	}
	domain.SetState(util.ConvState(state), util.ConvReason(state, reason))
	return domain, nil
}

func (l *launcher) FreezeVirtualMachine(_ context.Context, request *cmdv1.FreezeRequest) (*cmdv1.Response, error) {
	vmi, err := instance(request.Vmi)
	if err == nil {
		err = l.freezer.freeze(vmi, request.UnfreezeTimeoutSeconds)
	}
	return outcome(err), nil
}

func (l *launcher) UnfreezeVirtualMachine(_ context.Context, request *cmdv1.VMIRequest) (*cmdv1.Response, error) {
	vmi, err := instance(request.Vmi)
	if err == nil {
		err = l.freezer.unfreeze(vmi)
	}
	return outcome(err), nil
}

// Exec answers an error of the agent both in the response and as an error of the call: virt-probe looks at the latter.
func (l *launcher) Exec(_ context.Context, request *cmdv1.ExecRequest) (*cmdv1.ExecResponse, error) {
	output, err := agent.GuestExec(l.connection, request.DomainName, request.Command, request.Args, request.TimeoutSeconds)
	response := &cmdv1.ExecResponse{Response: &cmdv1.Response{Success: true}, StdOut: output}
	var exited agent.ExecExitCode
	if err != nil && !errors.As(err, &exited) {
		response.Response = &cmdv1.Response{Message: err.Error()}
		return response, err
	}
	response.ExitCode = int32(exited.ExitCode)
	return response, nil
}

func (l *launcher) GuestPing(_ context.Context, request *cmdv1.GuestPingRequest) (*cmdv1.GuestPingResponse, error) {
	_, err := l.connection.QemuAgentCommand(`{"execute":"guest-ping"}`, request.DomainName)
	if err != nil {
		return &cmdv1.GuestPingResponse{Response: &cmdv1.Response{Message: err.Error()}}, err
	}
	return &cmdv1.GuestPingResponse{Response: outcome(nil)}, nil
}

func instance(sent *cmdv1.VMI) (*v1.VirtualMachineInstance, error) {
	vmi := &v1.VirtualMachineInstance{}
	return vmi, json.Unmarshal(sent.VmiJson, vmi)
}

func outcome(err error) *cmdv1.Response {
	if err == nil {
		return &cmdv1.Response{Success: true}
	}
	var known libvirt.Error
	if errors.As(err, &known) {
		return &cmdv1.Response{Message: launchererrors.FormatLibvirtError(err)}
	}
	return &cmdv1.Response{Message: err.Error()}
}
