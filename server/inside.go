package server

import (
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/inventory"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"github.com/signet-iot/signet/routes"
)

// Authority and the others are the running server's own, for tests and programs
// that embed it.
func (s *Server) Authority() *authority.Authority          { return s.authority }
func (s *Server) Registry() *registry.Registry             { return s.registry }
func (s *Server) Hub() *hub.Hub                            { return s.hub }
func (s *Server) Routes() *routes.Routes                   { return s.routes }
func (s *Server) Commands() *commands.Commands             { return s.commands }
func (s *Server) Issuance() *issuance.Issuance             { return s.issuance }
func (s *Server) Verdicts() *authority.VerdictLog          { return s.verdicts }
func (s *Server) Inventory() *inventory.Inventory          { return s.inventory }
func (s *Server) Provisioning() *provisioning.Provisioning { return s.provisioning }
