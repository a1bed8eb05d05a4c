package source

// Names of older versions of the Go SDK.
const (
	// Deprecated: use DsyncActivated.
	DirectoryActivated = DsyncActivated
	// Deprecated: use DsyncDeleted.
	DirectoryDeleted = DsyncDeleted
	// Deprecated: use DsyncUserCreated.
	DirectoryUserCreated = DsyncUserCreated
	// Deprecated: use DsyncUserUpdated.
	DirectoryUserUpdated = DsyncUserUpdated
	// Deprecated: use DsyncUserDeleted.
	DirectoryUserDeleted = DsyncUserDeleted
	// Deprecated: use DsyncGroupCreated.
	DirectoryGroupCreated = DsyncGroupCreated
	// Deprecated: use DsyncGroupUpdated.
	DirectoryGroupUpdated = DsyncGroupUpdated
	// Deprecated: use DsyncGroupDeleted.
	DirectoryGroupDeleted = DsyncGroupDeleted
	// Deprecated: use DsyncGroupUserAdded.
	DirectoryGroupUserAdded = DsyncGroupUserAdded
	// Deprecated: use DsyncGroupUserRemoved.
	DirectoryGroupUserRemoved = DsyncGroupUserRemoved
	// Deprecated: use DsyncGroupUserRemoved.
	DirectroyGroupUserRemoved = DsyncGroupUserRemoved
	// Deprecated: use AuthenticationMFASucceeded.
	AuthenticationMfaSucceeded = AuthenticationMFASucceeded
	// Deprecated: use AuthenticationOAuthFailed.
	AuthenticationOauthFailed = AuthenticationOAuthFailed
	// Deprecated: use AuthenticationOAuthSucceeded.
	AuthenticationOauthSucceeded = AuthenticationOAuthSucceeded
	// Deprecated: use AuthenticationSSOFailed.
	AuthenticationSsoFailed = AuthenticationSSOFailed
	// Deprecated: use AuthenticationSSOSucceeded.
	AuthenticationSsoSucceeded = AuthenticationSSOSucceeded
)

// Types that the Go SDK names or named and that are no longer, or not, in the specification.
const (
	// Deprecated: use OrganizationMembershipCreated.
	OrganizationMembershipAdded = "organization_membership.added"
	// Deprecated: use OrganizationMembershipDeleted.
	OrganizationMembershipRemoved = "organization_membership.removed"
	// Deprecated: use AuthenticationReauthenticationSucceeded.
	SessionReauthenticated = "session.reauthenticated"
	// Deprecated: there is no such event; a session names its impersonator.
	UserImpersonated = "user.impersonated"
)
