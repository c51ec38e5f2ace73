// The back end of provisioning, through the official service SDK, unmodified.
// Usage: node enroll.js CONNECTION-STRING LEAF-FILE CA-FILE CA-NAME OTHER-CONNECTION-STRING (and NODE_EXTRA_CA_CERTS)
// CA-NAME is registered at the service, CA-FILE is an intermediate below it, and
// LEAF-FILE the certificate of the device "press-17".
'use strict';
const assert = require('assert');
const fs = require('fs');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');

const [connectionString, leafFile, caFile, caName, stranger] = process.argv.slice(2);
const client = ProvisioningServiceClient.fromConnectionString(connectionString);
const leaf = fs.readFileSync(leafFile, 'utf8');
const ca = fs.readFileSync(caFile, 'utf8');

async function refused(promise, name, code) {
  try {
    await promise;
  } catch (err) {
    assert.strictEqual(err.name, name, `${err.name}: ${err.message}`);
    if (code) assert.strictEqual(JSON.parse(err.responseBody).errorCode, code, err.responseBody);
    return;
  }
  assert.fail(`expected ${name}`);
}

async function individuals() {
  // By keys, which the service makes, and tells to who has written them or asks for them.
  const keyed = (await client.createOrUpdateIndividualEnrollment({
    registrationId: 'Keyed', deviceId: 'keyed-1', attestation: { type: 'symmetricKey' },
    initialTwin: { tags: { hall: 3 }, properties: { desired: { rate: 5 } } },
  })).responseBody;
  assert.strictEqual(keyed.provisioningStatus, 'enabled');
  assert.strictEqual(keyed.allocationPolicy, 'hashed');
  assert.deepStrictEqual(keyed.reprovisionPolicy, { updateHubAssignment: true, migrateDeviceData: true });
  assert.ok(keyed.etag && new Date(keyed.createdDateTimeUtc) <= new Date(Date.now() + 60e3));
  const keys = (await client.getIndividualEnrollmentAttestationMechanism('keyed')).responseBody;
  assert.deepStrictEqual(keyed.attestation, keys);
  assert.strictEqual(Buffer.from(keys.symmetricKey.primaryKey, 'base64').length, 64);
  await refused(client.getIndividualEnrollmentAttestationMechanism('nobody'), 'Error', 404201);
  console.log('ok create, keys');

  // What was read is sent back with a change; keys and twin stay.
  const read = (await client.getIndividualEnrollment('KEYED')).responseBody;
  assert.strictEqual(read.registrationId, 'Keyed');
  assert.strictEqual(read.attestation.symmetricKey.primaryKey, '');
  read.provisioningStatus = 'disabled';
  const disabled = (await client.createOrUpdateIndividualEnrollment(read)).responseBody;
  assert.strictEqual(disabled.provisioningStatus, 'disabled');
  assert.notStrictEqual(disabled.etag, keyed.etag);
  assert.deepStrictEqual(disabled.initialTwin, { tags: { hall: 3 }, properties: { desired: { rate: 5 } } });
  assert.deepStrictEqual((await client.getIndividualEnrollmentAttestationMechanism('Keyed')).responseBody, keys);
  await refused(client.createOrUpdateIndividualEnrollment(read), 'InvalidEtagError', 409203);
  await refused(client.createOrUpdateIndividualEnrollment({ registrationId: 'keyed', attestation: { type: 'symmetricKey' } }), 'DeviceAlreadyExistsError', 409201);
  await refused(client.getIndividualEnrollment('nobody'), 'Error', 404201);
  console.log('ok get, update');

  // By certificate.
  const x509 = (await client.createOrUpdateIndividualEnrollment({
    registrationId: 'press-17', attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: leaf } } } },
  })).responseBody;
  assert.strictEqual(x509.attestation.x509.clientCertificates.primary.info.subjectName, 'CN=press-17');
  x509.capabilities = { iotEdge: true };
  const edge = (await client.createOrUpdateIndividualEnrollment(x509)).responseBody;
  assert.deepStrictEqual(edge.attestation, x509.attestation);
  assert.strictEqual(edge.capabilities.iotEdge, true);
  await refused(client.createOrUpdateIndividualEnrollment({
    registrationId: 'press-18', attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: leaf } } } },
  }), 'ArgumentError', 400004);
  await refused(client.createOrUpdateIndividualEnrollment({
    registrationId: 'tpm', attestation: { type: 'tpm', tpm: { endorsementKey: 'AA==' } },
  }), 'ArgumentError', 400004);
  console.log('ok x509');

  // Deleted by ID, by ETag, as an object.
  await refused(client.deleteIndividualEnrollment('keyed', keyed.etag), 'InvalidEtagError', 409203);
  await client.deleteIndividualEnrollment('keyed', disabled.etag);
  await refused(client.deleteIndividualEnrollment('keyed'), 'Error', 404201);
  await client.deleteIndividualEnrollment(edge);
  console.log('ok delete');
}

// The SDK settles its promise only where there is a callback.
function runBulk(operation) {
  return new Promise((resolve, reject) => {
    client.runBulkEnrollmentOperation(operation, (err, result) => (err ? reject(err) : resolve(result)));
  });
}

async function bulk() {
  const of = (...ids) => ids.map((registrationId) => ({ registrationId, attestation: { type: 'symmetricKey' } }));
  const done = await runBulk({ mode: 'create', enrollments: of('b1', 'b2', 'b3', 'b4', 'b:5') });
  assert.deepStrictEqual(done, { isSuccessful: true, errors: [] });
  const partly = await runBulk({ mode: 'create', enrollments: of('b1', 'b6') });
  assert.strictEqual(partly.isSuccessful, false);
  assert.deepStrictEqual(partly.errors.map((e) => [e.registrationId, e.errorCode]), [['b1', 409201]]);
  await refused(runBulk({ mode: 'create', enrollments: of(...'0123456789a') }), 'ArgumentError', 400004);

  // Page by page; without a callback, the SDK wants to be told where to go on.
  const ids = [];
  const query = client.createIndividualEnrollmentQuery({ query: '*' }, 2);
  let pages = 0;
  while (query.hasMoreResults) {
    const page = (await query.next(query.continuationToken)).responseBody;
    ids.push(...page.map((e) => e.registrationId));
    pages++;
  }
  assert.deepStrictEqual(ids, ['b1', 'b2', 'b3', 'b4', 'b6', 'b:5']);
  assert.strictEqual(pages, 3);
  await refused(client.createIndividualEnrollmentQuery({ query: 'SELECT * WHERE a = 1' }).next(), 'ArgumentError', 400004);

  assert.strictEqual((await client.getIndividualEnrollment('b:5')).responseBody.registrationId, 'b:5');
  const gone = await runBulk({ mode: 'delete', enrollments: of(...ids) });
  assert.strictEqual(gone.isSuccessful, true);
  console.log('ok bulk, query');
}

async function groups() {
  const byName = (await client.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'acme', attestation: { type: 'x509', x509: { caReferences: { primary: caName } } },
  })).responseBody;
  assert.strictEqual(byName.attestation.x509.caReferences.primary, caName);
  const line = (await client.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'line', attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate: ca } } } }, provisioningStatus: 'disabled',
  })).responseBody;
  assert.match(line.attestation.x509.signingCertificates.primary.info.sha256Thumbprint, /^[0-9A-F]{64}$/);
  await refused(client.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'line-2', attestation: { type: 'x509', x509: { signingCertificates: { primary: { certificate: ca } } } },
  }), 'DeviceAlreadyExistsError', 409202);
  await refused(client.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'none', attestation: { type: 'x509', x509: { caReferences: { primary: 'nobody' } } },
  }), 'Error', 404008);

  line.provisioningStatus = 'enabled';
  const enabled = (await client.createOrUpdateEnrollmentGroup(line)).responseBody;
  assert.deepStrictEqual(enabled.attestation, line.attestation);
  assert.strictEqual((await client.getEnrollmentGroup('LINE')).responseBody.etag, enabled.etag);

  await client.createOrUpdateEnrollmentGroup({ enrollmentGroupId: 'keys', attestation: { type: 'symmetricKey' } });
  const keys = (await client.getEnrollmentGroupAttestationMechanism('keys')).responseBody;
  assert.strictEqual(Buffer.from(keys.symmetricKey.secondaryKey, 'base64').length, 64);
  await refused(client.getEnrollmentGroupAttestationMechanism('nobody'), 'Error', 404201);

  const all = (await client.createEnrollmentGroupQuery({ query: 'SELECT * FROM enrollmentGroups' }).next()).responseBody;
  assert.deepStrictEqual(all.map((g) => g.enrollmentGroupId), ['acme', 'keys', 'line']);
  await refused(client.deleteEnrollmentGroup('line', 'no'), 'InvalidEtagError', 409203);
  await client.deleteEnrollmentGroup(enabled);
  await client.deleteEnrollmentGroup('keys');
  await refused(client.deleteEnrollmentGroup('keys'), 'Error', 404201);
  await refused(client.getEnrollmentGroup('keys'), 'Error', 404201);
  console.log('ok groups');
}

// The device "press-20" has registered by the group "fleet".
async function registrations() {
  const state = (await client.getDeviceRegistrationState('PRESS-20')).responseBody;
  assert.strictEqual(state.status, 'assigned');
  assert.strictEqual(state.substatus, 'initialAssignment');
  assert.strictEqual(state.deviceId, 'press-20');
  assert.ok(state.assignedHub && state.etag && state.createdDateTimeUtc);
  const list = (await client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, 'fleet').next()).responseBody;
  assert.deepStrictEqual(list, [state]);
  assert.deepStrictEqual((await client.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, 'nobody').next()).responseBody, []);
  await refused(client.deleteDeviceRegistrationState('press-20', 'no'), 'InvalidEtagError', 409203);
  await client.deleteDeviceRegistrationState(state);
  await refused(client.deleteDeviceRegistrationState('press-20'), 'Error', 404202);
  await refused(client.getDeviceRegistrationState('press-20'), 'Error', 404202);
  await client.deleteEnrollmentGroup('fleet');
  console.log('ok registrations');
}

async function main() {
  await registrations();
  await individuals();
  await bulk();
  await groups();
  await refused(ProvisioningServiceClient.fromConnectionString(stranger).getEnrollmentGroup('acme'), 'UnauthorizedError', 401002);
  console.log('ok unauthorized');
}

process.exitCode = 1; // for a promise that is never settled
main().then(() => {
  process.exitCode = 0;
}, (err) => {
  console.log(err.stack || String(err));
  process.exit(1);
});
